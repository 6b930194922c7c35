"""`transformer-jax plan EXPERIMENT.py --topology v5e:4x4`: memory, messages and time of a run on another machine."""

import signal
from collections.abc import Sequence
from pathlib import Path

from transformer_jax.analysis.plan import make_plan, report, topology, what_would_fit
from transformer_jax.cli.errors import user_input
from transformer_jax.cli.overrides import BEGINNING, changed
from transformer_jax.cli.parser import Parser, add_utilisation, show_log
from transformer_jax.runs.experiment_file import load_experiment_file
from transformer_jax.runs.preparation import check_train

EPILOG = """\
Topologies: v4, v5e, v5p and v6e with their shapes, such as v5e:4x4 (needs the extra tpu, but no TPU); a100, h100, h200,
b200, l4 and t4 with a number, such as h100:8, which are simulated by CPU devices; cpu:8. Every field of the experiment
can be changed by its path, such as --mesh.fsdp 4."""


def main(arguments: Sequence[str]) -> None:
    """Prints the plan and, if it does not fit, a change that does."""
    parser = Parser("plan", "Compiles an experiment's step for a machine and says what it needs.", epilog=EPILOG)
    parser.add_argument("experiment", metavar="EXPERIMENT.py", help="has a function experiment()")
    parser.add_argument("--topology", required=True, metavar="CHIP:SIZES", help="such as v5e:4x4 or h100:8")
    parser.add_argument("--initialize-from", metavar="RUN[:STEP]|DIR", help=BEGINNING)
    parser.add_argument("--variant", metavar="NAME", help="another function of the file, such as small(), to call")
    add_utilisation(parser)
    with user_input():
        options, overrides = parser.split(arguments)
        experiment = load_experiment_file(Path(options.experiment), options.variant or "experiment")
        prog = f"{parser.prog} {options.experiment}"
        experiment = changed(experiment, overrides, options.initialize_from, Path(), prog)
        show_log()
        check_train(experiment)
        devices, chip = topology(options.topology)
        # Nothing is written that would have to be taken back, and compiling hears of no signal.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        print(f"compiling {options.experiment} for {options.topology}; that can take a minute or two", flush=True)
        plan = make_plan(experiment, devices)
    print(report(plan, chip, utilisation=options.utilisation))
    if chip is not None and plan.bytes > chip.memory:
        if fitting := what_would_fit(plan, devices, chip.memory, lambda change: print(f"trying {change}", flush=True)):
            print(f"it would fit with {fitting[0]}:\n{report(fitting[1], chip, utilisation=options.utilisation)}")
        else:
            print("no change of mesh, remat or accumulation that was tried makes it fit: take more chips")
