"""`transformer-jax score RUN`: how probable given outputs are."""

from collections.abc import Sequence

from transformer_jax.cli.errors import user_input
from transformer_jax.cli.evaluate import read_files
from transformer_jax.cli.parser import open_run, run_parser


def main(arguments: Sequence[str]) -> None:
    """Prints one log-probability a line."""
    parser = run_parser("score", "Log-probability, in nats, of every target (with its end) given its source.")
    parser.add_argument("--source", metavar="FILE", required=True, help="inputs, a line each")
    parser.add_argument("--target", metavar="FILE", required=True, help="their outputs, line by line")
    with user_input():
        run, options = open_run(parser, arguments)
        if len(run.experiment.task.features) != 2 or not hasattr(run.experiment.task, "decoding"):
            raise ValueError(f"a model of {type(run.experiment.task).__name__} scores no pairs; Translation does")
        examples = read_files(run, options.source, options.target)
        predictor = run.predictor(options.checkpoint)
        source, target = ([example[feature] for example in examples] for feature in run.experiment.task.features)
        scores = predictor.score(source, target)
    print("\n".join(f"{score:.6f}" for score in scores))
