"""`transformer-jax score RUN`: how probable given outputs are."""

import math
import sys
from collections.abc import Sequence

from transformer_jax.cli.errors import user_input
from transformer_jax.cli.lines import predictions, read_aligned
from transformer_jax.cli.parser import open_run, run_parser

DESCRIPTION = """\
Log-probability, in nats, of every target (with its end) given its source, a line each.
It is nan for a line that cannot be read or scored; a message on stderr names its number."""


def main(arguments: Sequence[str]) -> None:
    """Prints one log-probability a line."""
    parser = run_parser("score", DESCRIPTION)
    parser.add_argument("--source", metavar="FILE", required=True, help="inputs, a line each")
    parser.add_argument("--target", metavar="FILE", required=True, help="their outputs, line by line")
    with user_input():
        run, options = open_run(parser, arguments)
        predictor = run.predictor(options.checkpoint)
        if len(run.experiment.task.features) != 2 or not hasattr(predictor, "score"):
            raise ValueError(f"a model of {type(run.experiment.task).__name__} scores no pairs; Translation does")
        sources, targets = read_aligned([options.source, options.target], undecodable=True)
    pairs = zip(sources, targets, strict=True)
    for chunk in predictions(pairs, lambda some: predictor.score(*zip(*some, strict=True))):
        for _, log_probability in chunk:
            print(f"{math.nan if log_probability is None else log_probability:.6f}")
        sys.stdout.flush()
