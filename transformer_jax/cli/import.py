"""`transformer-jax import DIR RUN`: a published model becomes a run."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformer_jax.cli.errors import user_input
from transformer_jax.cli.parser import Parser, show_log
from transformer_jax.data.lines import existing
from transformer_jax.interop.gguf_files import write_published_gguf
from transformer_jax.interop.hub import local_directory
from transformer_jax.runs.importing import import_run
from transformer_jax.runs.run import Run


def main(arguments: Sequence[str]) -> None:
    """Writes the run and prints what it is."""
    parser = Parser("import", "Makes a run of a published model: config.json, model.safetensors and a tokenizer.")
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
        run = _imported(options.directory, Path(options.run), {"dtype": options.dtype, "ignore": options.ignore})
    task, model = type(run.experiment.task).__name__, run.experiment.model
    print(f"{run.directory}: {task} with a {type(model).__name__} of {model.num_parameters():,} parameters")


def _imported(place: str, target: Path, options: Mapping[str, Any]) -> Run:
    if not place.endswith(".gguf"):
        return import_run(local_directory(place), target, **options)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / Path(place).stem
        write_published_gguf(existing(Path(place), "the GGUF file"), directory)
        return import_run(directory, target, **options)
