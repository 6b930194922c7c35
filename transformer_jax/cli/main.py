"""The command `transformer-jax`."""

import importlib
import io
import signal
import sys
import threading
from collections.abc import Sequence

from transformer_jax.cli.errors import UserError, exit_status
from transformer_jax.data.nearest import did_you_mean
from transformer_jax.version import __version__

VERBS = {
    "train": ("learn what an experiment file says", "train experiments/quickstart.py --train.steps 500"),
    "plan": ("what a run would need elsewhere", "plan experiments/quickstart.py --topology v5e:2x2"),
    "sweep": (
        "one experiment, several values of its fields",
        "sweep experiments/quickstart.py --grid model.d-model=64,128",
    ),
    "reproduce": ("the tables and figures of the paper", "reproduce table3 --scale dates --dry-run"),
    "evaluate": ("score a run on its test split, or on files", "evaluate runs/quickstart --json"),
    "compare": ("is one run better, or is it chance?", "compare runs/small runs/large --scores bleu ter"),
    "predict": ("a line in, a line out", "predict runs/quickstart --input dates.txt"),
    "score": ("log-probabilities of given translations", "score runs/quickstart --source in.txt --target out.txt"),
    "attention": ("draw who looks at whom in a sentence", 'attention runs/quickstart "jeudi 5 mars 2026"'),
    "import": ("make a run of a published model", "import DIR runs/minilm"),
    "export": ("write a run as others publish models", "export runs/minilm DIR"),
    "average": ("write the mean of the last checkpoints", "average runs/quickstart --last 5"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the verb that the arguments name; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file's name need not be UTF-8; a message that holds one is not lost for it.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
    if threading.current_thread() is threading.main_thread():
        # An exception, so that what a command has begun to write is taken back; training waits for its next step.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    status = 1
    try:
        status = exit_status(lambda: _dispatch(list(sys.argv[1:] if arguments is None else arguments)))
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
        raise
    finally:
        # A failed process that is one of several ends at once.
        if status and "transformer_jax.parallel.distributed" in sys.modules:
            sys.modules["transformer_jax.parallel.distributed"].end(status)
    return status


def run_experiment(file: str) -> None:
    """Makes `python FILE ...` the command `transformer-jax train FILE ...`, called at the end of an experiment file.

    Does nothing while the file is imported, with a `__main__` guard or without.
    """
    if sys._getframe(1).f_globals["__name__"] == "__main__":
        sys.exit(main(["train", file, *sys.argv[1:]]))


def _dispatch(arguments: list[str]) -> None:
    verb = arguments[0] if arguments else "--help"
    if verb in ("-h", "--help"):
        print("usage: transformer-jax VERB ...      (transformer-jax VERB --help says more; --version)\n")
        for name, (purpose, example) in VERBS.items():
            print(f"  {name:<10} {purpose:<44} transformer-jax {example}")
    elif verb == "--version":
        print(__version__)
    elif verb in VERBS:
        # Imported only now, so that a mistake and the overview need not wait for JAX.
        importlib.import_module(f"transformer_jax.cli.{verb}").main(arguments[1:])
    else:
        near = did_you_mean(verb, VERBS) or f"; there are {', '.join(VERBS)}"
        raise UserError(f"unknown command {verb}{near}")


if __name__ == "__main__":
    sys.exit(main())
