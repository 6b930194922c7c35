"""`transformer-jax average RUN`: the mean of the last checkpoints (Vaswani et al. 2017, section 6.1)."""

from collections.abc import Sequence
from pathlib import Path

from transformer_jax.cli.errors import user_input
from transformer_jax.cli.parser import Parser
from transformer_jax.runs.run import Run


def main(arguments: Sequence[str]) -> None:
    """Writes the mean and prints its directory."""
    parser = Parser("average", "Writes the mean of the parameters of the last checkpoints.")
    parser.add_argument("run", metavar="RUN", help="the run directory, such as runs/quickstart")
    parser.add_argument("--output", metavar="DIR", help="the new run directory; default: RUN-average")
    parser.add_argument("--last", metavar="N", type=int, default=5, help="how many checkpoints (default: 5)")
    with user_input():
        options, rest = parser.split(arguments)
        if rest:
            parser.error(f"unexpected argument {rest[0]}")
        run = Run.open(options.run)
        steps = run.checkpoint_steps(f"average:{options.last}")
        named = run.directory if run.directory.name not in ("", "..") else run.directory.resolve()
        path = run.write_average(steps, Path(options.output or named.with_name(f"{named.name}-average")))
    print(f"the mean of steps {', '.join(map(str, steps))}: {path}")
