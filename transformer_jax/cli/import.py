"""`transformer-jax import DIR RUN`: a published model becomes a run."""

from collections.abc import Sequence
from pathlib import Path

from transformer_jax.cli.errors import user_input
from transformer_jax.cli.parser import Parser, show_log
from transformer_jax.interop.hub import local_directory
from transformer_jax.runs.importing import import_run


def main(arguments: Sequence[str]) -> None:
    """Writes the run and prints what it is."""
    parser = Parser("import", "Makes a run of a published model: config.json, model.safetensors and a tokenizer.")
    parser.add_argument("directory", metavar="DIR", help="the directory of the published model, or its name on the hub")
    parser.add_argument("run", metavar="RUN", help="the new run directory")
    parser.add_argument(
        "--ignore",
        metavar="KEY",
        action="append",
        default=[],
        help="pass over a key of config.json or generation_config.json",
    )
    with user_input():
        options, rest = parser.split(arguments)
        if rest:
            parser.error(f"unexpected argument {rest[0]}")
        show_log()
        run = import_run(local_directory(options.directory), Path(options.run), ignore=options.ignore)
    task, model = type(run.experiment.task).__name__, run.experiment.model
    print(f"{run.directory}: {task} with a {type(model).__name__} of {model.num_parameters():,} parameters")
