"""`transformer-jax export RUN DIR`: a run becomes a published model, or programs."""

from collections.abc import Sequence
from pathlib import Path

from transformer_jax.cli.errors import user_input
from transformer_jax.cli.parser import open_run, run_parser
from transformer_jax.runs.exporting import export_run, export_stablehlo


def main(arguments: Sequence[str]) -> None:
    """Writes the model and prints its class."""
    parser = run_parser("export", "Writes a run as a directory that transformers loads, with its tokenizer.")
    parser.add_argument("directory", metavar="DIR", help="the new directory")
    parser.add_argument("--family", default="", help="such as llama or bert; default: the first that fits")
    parser.add_argument(
        "--stablehlo",
        metavar="LENGTH",
        type=int,
        help="write programs for texts of LENGTH tokens, or pictures of LENGTH x LENGTH pixels, instead, which "
        "jax.export reads without this package",
    )
    parser.add_argument("--dtype", help="float32, float16 or bfloat16; default: float32, or as it was published")
    with user_input():
        run, options = open_run(parser, arguments)
        if options.stablehlo is not None:
            if options.stablehlo < 1 or options.family or options.dtype:
                parser.error("--stablehlo is 1 at least, without --family and --dtype")
            files = export_stablehlo(run, Path(options.directory), options.stablehlo, checkpoint=options.checkpoint)
            print(f"{options.directory}: {', '.join(files)}")
            return
        form = {"checkpoint": options.checkpoint, "family": options.family, "dtype": options.dtype}
        architecture = export_run(run, Path(options.directory), **form)
    print(f"{options.directory}: {architecture}")
