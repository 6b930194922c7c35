"""`transformer-jax score RUN`: how probable given outputs are."""

import sys
from collections.abc import Sequence

from transformer_jax.cli.errors import user_input
from transformer_jax.cli.lines import Skipped, read_aligned
from transformer_jax.cli.parser import open_run, run_parser
from transformer_jax.cli.predict import LINES

DESCRIPTION = """\
Log-probability, in nats, of every target (with its end) given its source, a line each.
It is nan for a line that cannot be read or scored; a message on stderr names its number."""


def main(arguments: Sequence[str]) -> None:
    """Prints one log-probability a line."""
    parser = run_parser("score", DESCRIPTION)
    parser.add_argument("--source", metavar="FILE", required=True, help="inputs, a line each")
    parser.add_argument("--target", metavar="FILE", required=True, help="their outputs, line by line")
    skipped = Skipped()
    with user_input():
        run, options = open_run(parser, arguments)
        if len(run.experiment.task.features) != 2 or not hasattr(run.experiment.task, "decoding"):
            raise ValueError(f"a model of {type(run.experiment.task).__name__} scores no pairs; Translation does")
        sources, targets = read_aligned([options.source, options.target], undecodable=True)
        predictor = run.predictor(options.checkpoint)
    pairs = list(zip(sources, targets, strict=True))
    for start in range(0, len(pairs), LINES):
        chunk = pairs[start : start + LINES]
        found = skipped.each(lambda some: predictor.score(*zip(*some, strict=True)), skipped.texts(chunk, start + 1))
        for number in range(start + 1, start + 1 + len(chunk)):
            print(f"{found.get(number, float('nan')):.6f}")
        sys.stdout.flush()
    with user_input():
        skipped.end(len(pairs))
