"""`transformer-jax import DIR RUN`: a published model becomes a run."""

from collections.abc import Sequence
from pathlib import Path

from transformer_jax.cli.errors import user_input
from transformer_jax.cli.parser import Parser, show_log
from transformer_jax.runs.importing import import_run


def main(arguments: Sequence[str]) -> None:
    """Writes the run and prints what it is."""
    parser = Parser(
        "import",
        "Makes a run of a published model: of a directory with its files, of its name on the hub, or of a GGUF file.",
    )
    parser.add_argument(
        "directory", metavar="DIR", help="the directory of the published model, its name on the hub, or a GGUF file"
    )
    parser.add_argument("run", metavar="RUN", help="the new run directory")
    parser.add_argument(
        "--ignore",
        metavar="KEY",
        action="append",
        default=[],
        help="pass over a key of config.json or generation_config.json",
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="what the model computes in"
    )
    with user_input():
        options, rest = parser.split(arguments)
        if rest:
            parser.error(f"unexpected argument {rest[0]}")
        show_log()
        run = import_run(options.directory, Path(options.run), dtype=options.dtype, ignore=options.ignore)
    task, model = type(run.experiment.task).__name__, run.experiment.model
    print(f"{run.directory}: {task}, {type(model).__name__} with {model.num_parameters():,} parameters")
