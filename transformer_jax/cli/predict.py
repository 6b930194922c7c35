"""`transformer-jax predict RUN`: a line in, a line out; `predict RUN talk.flac`: a file in, a line out."""

import contextlib
import glob
import itertools
import math
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import IO, Any

from transformer_jax.cli.errors import user_input
from transformer_jax.cli.lines import LINES, predictions, read_lines, written
from transformer_jax.cli.parser import open_run, run_parser
from transformer_jax.data import audio, pictures
from transformer_jax.tasks.audio import AudioReader
from transformer_jax.tasks.image_classification import PictureReader
from transformer_jax.tasks.translation import Hypothesis

DESCRIPTION = """\
Predicts an output for every line of input; an empty line stays empty, but to a text generator it is an empty prompt.
A line that cannot be read or predicted gives an empty line, and a message on stderr with its number.
With --scores a line is score<TAB>text, where score is what the search ranked by: log-probability over length penalty
(nan for a line that is skipped).
A text generator writes to a terminal as it goes, line breaks included.
With --n-best N it is number<TAB>text, or number<TAB>score<TAB>text: the number of the input line, from 1, then its
N best outputs, best first, each on a line. They are different texts, fewer than N if the search finds fewer.
A model of pictures or recordings reads the files that are named behind RUN or, without any, in the lines of input.
Of several files, or of a folder, whose files are taken with those of folders in it, every row is FILE<TAB>output."""
READERS = {PictureReader: ("pictures", pictures.SUFFIXES), AudioReader: ("recordings", audio.SUFFIXES)}
"""What a model that reads files calls them, and the endings of their names."""


def main(arguments: Sequence[str]) -> None:
    """Writes predictions while it reads."""
    files = [*itertools.takewhile(lambda argument: not argument.startswith("-"), arguments[1:])]
    arguments = [*arguments[:1], *arguments[1 + len(files) :]]
    parser = run_parser("predict", DESCRIPTION)
    parser.add_argument("--input", metavar="FILE", default="-", help="UTF-8 text (.gz and .xz are unpacked); -: stdin")
    parser.add_argument("--output", metavar="FILE", help="FILE.partial until all is done; default: stdout, at once")
    parser.add_argument("--n-best", metavar="N", type=int, help="the N best different outputs of every line")
    parser.add_argument("--chat", action="store_true", help="every line is said by a user; the output is the answer")
    parser.add_argument("--scores", action="store_true", help="a score before every output")
    with contextlib.ExitStack() as stack:
        with user_input():
            run, options = open_run(parser, arguments)
            if options.n_best is not None and options.n_best < 1:
                parser.error(f"--n-best is at least 1, not {options.n_best}")
            predictor, searches = run.predictor(options.checkpoint), bool(options.n_best or options.scores)
            if options.chat and (searches or not hasattr(predictor, "chat")):
                raise ValueError("--chat is for text generators, and alone")
            if options.chat:
                predictor.chat([])  # refuses a tokenizer without a template
            generates = hasattr(predictor, "stream")
            if searches:
                if not hasattr(predictor, "search"):
                    raise ValueError("the task of this run has no scores; leave out --n-best and --scores")
                predictor.search([], options.n_best or 1)  # refuses more than a search keeps
            kind, suffixes = next((READERS[of] for of in READERS if isinstance(predictor, of)), ("", ()))
            if files and not kind:
                raise ValueError(f"the model reads lines of text, not {files[0]}; its lines are --input {files[0]}")
            if options.input.lower().endswith(suffixes):
                raise ValueError(f"the model reads {kind}: name {options.input} behind RUN, without --input")
            named = len(files) > 1 or any(map(os.path.isdir, files))
            files = [path for file in files for path in _files(file, kind, suffixes)]
            lines = iter(files) if files else read_lines(options.input)
            out = stack.enter_context(written(options.output))
        typing = not files and options.input == "-" and sys.stdin.isatty()
        if typing:
            print("type a line and press Enter; Ctrl-D ends", file=sys.stderr)
        streams = out.isatty() and generates and not searches and not options.chat

        def call(texts: list[str]) -> list[Any]:
            if searches:
                return predictor.search(texts, options.n_best or 1)
            if options.chat:
                return predictor.chat([[{"role": "user", "content": text}] for text in texts])
            return [_stream(predictor, text, out) for text in texts] if streams else predictor.predict(texts)

        size = 1 if typing or streams else LINES
        # An empty prompt begins a text; to other tasks an empty line is no question.
        needed = str.strip if options.chat or (not generates and not searches) else lambda line: True
        for chunk in predictions(lines, call, size=size, needed=needed):
            for number, result in chunk:
                name = f"{files[number - 1]}\t" if named else ""
                out.writelines(f"{name}{row}\n" for row in _rows(number, result, options))
            out.flush()


def _files(file: str, kind: str, suffixes: tuple[str, ...]) -> list[str]:
    """The file or, of a folder, its files with these endings, in the order of their names; ValueError for none."""
    if not os.path.isdir(file):
        return [file]
    paths = sorted(glob.glob(os.path.join(glob.escape(file), "**", "*"), recursive=True))
    if found := [path for path in paths if path.lower().endswith(suffixes)]:
        return found
    raise ValueError(f"there are no {kind} in {file}, files that end with one of {', '.join(suffixes)}")


def _stream(predictor: Any, line: str, out: IO[str]) -> str:
    """Writes one output as it comes; nothing of it is left to write."""
    for piece in predictor.stream(line):
        out.write(piece)
        out.flush()
    return ""


def _rows(number: int, result: Any, options: Namespace) -> Iterator[str]:
    """The lines of output for a line of input; its result is None if it was skipped."""
    if not options.n_best and not options.scores:
        yield (result or "").replace("\n", " ")
        return
    for text, score, _ in [Hypothesis("", math.nan, math.nan)] if result is None else result:
        columns = [str(number)] * bool(options.n_best) + [f"{score:.6f}"] * options.scores
        yield "\t".join([*columns, text.replace("\n", " ")])
