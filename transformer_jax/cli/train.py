"""`transformer-jax train EXPERIMENT.py`: from a file to a trained, evaluated run; started again it goes on."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from transformer_jax.analysis.report import show_result
from transformer_jax.cli.errors import user_input
from transformer_jax.cli.overrides import BEGINNING, changed
from transformer_jax.cli.parser import Parser, show_log
from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files
from transformer_jax.models.encoder_decoder import base
from transformer_jax.parallel.distributed import is_first, start
from transformer_jax.runs.experiment_file import load_experiment_file
from transformer_jax.runs.preparation import prepare
from transformer_jax.runs.profiling import PROFILE, report
from transformer_jax.runs.trainer import train
from transformer_jax.tasks.translation import Translation
from transformer_jax.training.experiment import Experiment

EPILOG = """\
Started again with the same directory, a run goes on from its newest checkpoint.
Every field can be changed by its path. EXPERIMENT.py --help lists those of an experiment;
without a file, these are the fields of a translation from files:"""


def main(arguments: Sequence[str]) -> None:
    """Trains, then shows the result."""
    began = time.monotonic()
    parser = Parser("train", "Learns what an experiment file says.", add_help=False, epilog=EPILOG)
    parser.add_argument("experiment", metavar="EXPERIMENT.py", nargs="?", help="has a function experiment()")
    parser.add_argument("--workdir", metavar="RUN", help="the run directory; default: runs/<name of the file>")
    parser.add_argument("--initialize-from", metavar="RUN[:STEP]|DIR", help=BEGINNING)
    parser.add_argument("--variant", metavar="NAME", help="another function of the file, such as small(), to call")
    parser.add_argument("--profile", action="store_true", help="trace a few steps for XProf and say what they cost")
    with user_input():
        options, overrides = parser.split(arguments)
        if {"-h", "--help"} & set(overrides):
            parser.print_help()
        elif options.experiment is None:
            parser.error("name an experiment file, such as experiments/quickstart.py")
        file = Path(options.experiment or "EXPERIMENT.py")
        experiment = Experiment(task=Translation(), data=DataConfig(source=Files()), model=base())
        if options.experiment:
            experiment = load_experiment_file(file, options.variant or "experiment")
        name = f"{file.stem}_{options.variant}" if options.variant else file.stem
        directory = Path(options.workdir or Path("runs") / name)
        experiment = changed(experiment, overrides, options.initialize_from, directory, f"{parser.prog} {file}")
        start(experiment.train.lost_process_timeout)
        show_log()
        if is_first():  # the first sign of life: reading the data may take minutes
            print(f"{file} in {directory}: reading the data", flush=True)
        prepared = prepare(experiment, file, directory)
    keep_programs(prepared.run.directory)
    finished = train(prepared, profile=options.profile)
    if options.profile and is_first():
        with user_input():
            print(report(prepared.run.directory / PROFILE), flush=True)
    if finished:
        try:
            steps = prepared.run.checkpoint_steps()
        except ValueError as error:
            print(f"warning: {error}", file=sys.stderr, flush=True)
            steps = prepared.run.checkpoint_steps("last")
        show_result(prepared.run, steps, prepared.mesh)
        minutes, seconds = divmod(round(time.monotonic() - began), 60)
        print(f"done in {minutes} min {seconds} s; the run is in {prepared.run.directory}", flush=True)


def keep_programs(directory: Path) -> None:
    """Caches compiled programs in the run directory, unless JAX_COMPILATION_CACHE_DIR is set or the device is a CPU.

    A CPU's program may not run on another.
    """
    if jax.default_backend() != "cpu" and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str((directory / "cache" / "programs").absolute()))
