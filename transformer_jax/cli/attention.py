"""`transformer-jax attention RUN "a sentence"`: its attention as a picture and a page."""

from collections.abc import Sequence
from pathlib import Path

from transformer_jax.analysis.attention_maps import draw_attention
from transformer_jax.cli.errors import user_input
from transformer_jax.cli.parser import open_run, run_parser


def main(arguments: Sequence[str]) -> None:
    """Draws the maps and prints their files."""
    parser = run_parser("attention", "Draws the attention of every layer and head for one sentence.")
    parser.add_argument("sentence", metavar="SENTENCE", help="the input")
    parser.add_argument("--target", help="an output; default: the one that the model predicts")
    parser.add_argument("--output", metavar="DIR", help="default: RUN/attention")
    with user_input():
        run, options = open_run(parser, arguments)
        directory = Path(options.output or run.directory / "attention")
        predictor = run.predictor(options.checkpoint)
        if not hasattr(predictor, "attention"):
            raise ValueError(f"a model of {type(run.experiment.task).__name__} draws no attention; Translation does")
        target = predictor.predict([options.sentence])[0] if options.target is None else options.target
        maps = predictor.attention(options.sentence, target)
        directory.mkdir(parents=True, exist_ok=True)
        png, html = directory / "attention.png", directory / "attention.html"
        draw_attention(maps, png, html)
    print(f"{options.sentence} -> {target}\n{png}\n{html}")
