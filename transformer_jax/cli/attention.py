"""`transformer-jax attention RUN "a sentence"`, `picture.png` or `talk.flac`: its attention, drawn."""

from collections.abc import Sequence
from pathlib import Path

from transformer_jax.analysis.attention_maps import draw_attention
from transformer_jax.analysis.picture_attention import draw_picture_attention
from transformer_jax.analysis.sound_attention import draw_sound_attention
from transformer_jax.cli.errors import user_input
from transformer_jax.cli.parser import open_run, run_parser
from transformer_jax.tasks.image_classification import ImageClassifier
from transformer_jax.tasks.speech_recognition import SpeechRecognizer
from transformer_jax.tasks.transcription import Transcriber


def main(arguments: Sequence[str]) -> None:
    """Draws the maps and prints their files."""
    parser = run_parser(
        "attention", "Draws the attention of every layer and head for one sentence, picture or recording."
    )
    parser.add_argument("sentence", metavar="SENTENCE", help="the input; of pictures and recordings the name of a file")
    parser.add_argument("--target", help="an output; default: the one that the model predicts")
    parser.add_argument("--output", metavar="DIR", help="default: RUN/attention")
    with user_input():
        run, options = open_run(parser, arguments)
        directory = Path(options.output or run.directory / "attention")
        predictor = run.predictor(options.checkpoint)
        if not hasattr(predictor, "attention"):
            kind = type(run.experiment.task).__name__
            raise ValueError(f"a model of {kind} draws no attention; those of translation, speech and pictures do")
        directory.mkdir(parents=True, exist_ok=True)
        png, html = directory / "attention.png", directory / "attention.html"
        if isinstance(predictor, ImageClassifier):
            draw_picture_attention(predictor.attention(options.sentence), png)
            print(f"{options.sentence} -> {predictor.predict([options.sentence])[0]}\n{png}")
            return
        if isinstance(predictor, SpeechRecognizer | Transcriber):
            heard = predictor.attention(options.sentence, options.target)
            draw_sound_attention(heard, png)
            print(f"{options.sentence} -> {' '.join(heard.words)}\n{png}")
            return
        target = predictor.predict([options.sentence])[0] if options.target is None else options.target
        maps = predictor.attention(options.sentence, target)
        draw_attention(maps, png, html)
    print(f"{options.sentence} -> {target}\n{png}\n{html}")
