"""`transformer-jax predict RUN`: a line in, a line out."""

import contextlib
import itertools
import math
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from transformer_jax.cli.errors import user_input
from transformer_jax.cli.lines import Skipped, read_lines, written
from transformer_jax.cli.parser import open_run, run_parser
from transformer_jax.tasks.translation import Hypothesis

DESCRIPTION = """\
Predicts an output for every line of input; an empty line stays empty, but to a text generator it is an empty prompt.
A line that cannot be read or predicted gives an empty line, and a message on stderr with its number.
With --scores a line is score<TAB>text, where score is what the search ranked by: log-probability over length penalty
(nan for a line that is skipped).
A text generator writes to a terminal as it goes, line breaks included.
With --n-best N it is number<TAB>text, or number<TAB>score<TAB>text: the number of the input line, from 1, then its
N best outputs, best first, each on a line. They are different texts, fewer than N where the search found fewer."""
LINES = 2_048
"""Lines that are read before any is written, so that those of similar length can be batched."""


def main(arguments: Sequence[str]) -> None:
    """Writes predictions while it reads."""
    parser = run_parser("predict", DESCRIPTION)
    parser.add_argument("--input", metavar="FILE", default="-", help="UTF-8 text (.gz and .xz are unpacked); -: stdin")
    parser.add_argument("--output", metavar="FILE", help="FILE.partial until all is done; default: stdout, at once")
    parser.add_argument("--n-best", metavar="N", type=int, help="the N best different outputs of every line")
    parser.add_argument("--scores", action="store_true", help="a score before every output")
    skipped = Skipped()
    with contextlib.ExitStack() as stack:
        with user_input():
            run, options = open_run(parser, arguments)
            if options.n_best is not None and options.n_best < 1:
                parser.error(f"--n-best is at least 1, not {options.n_best}")
            predictor = run.predictor(options.checkpoint)
            if options.n_best or options.scores:
                if not hasattr(predictor, "search"):
                    raise ValueError("the task of this run has no scores; leave out --n-best and --scores")
                predictor.search([], options.n_best or 1)  # refuses more than a search keeps
            lines = read_lines(options.input)
            out = stack.enter_context(written(options.output))
        typing = options.input == "-" and sys.stdin.isatty()
        if typing:
            print("type a line and press Enter; Ctrl-D ends", file=sys.stderr)
        streams = out.isatty() and hasattr(predictor, "stream") and not options.n_best and not options.scores
        size, first = 1 if typing or streams else LINES, 1
        while chunk := _next(lines, size):
            texts = skipped.texts(chunk, first)
            if streams:
                skipped.each(lambda some: [_stream(predictor, text, out) for text in some], texts)
                out.write("\n")
            else:
                numbers = range(first, first + len(chunk))
                out.writelines(f"{row}\n" for row in _rows(predictor, numbers, texts, options, skipped))
            out.flush()
            first += len(chunk)
        with user_input():
            skipped.end(first - 1)


def _next(lines: Iterator[str], size: int) -> list[str]:
    with user_input():
        return list(itertools.islice(lines, size))


def _stream(predictor: Any, line: str, out: IO[str]) -> None:
    """Writes one output as it comes."""
    for piece in predictor.stream(line):
        out.write(piece)
        out.flush()


def _rows(
    predictor: Any, numbers: Iterable[int], texts: dict[int, str], options: Namespace, skipped: Skipped
) -> Iterator[str]:
    """The lines of output for lines of these numbers, of which those that can be read have `texts`."""
    if not options.n_best and not options.scores:
        # An empty prompt begins a text; of other tasks, nothing is asked about an empty line.
        asked = {number: text for number, text in texts.items() if text.strip() or hasattr(predictor, "stream")}
        found = skipped.each(predictor.predict, asked)
        yield from (_one_line(found.get(number, "")) for number in numbers)
        return
    found = skipped.each(lambda some: predictor.search(some, options.n_best or 1), texts)
    missing = [Hypothesis("", math.nan, math.nan)]
    for number in numbers:
        for text, score, _ in found.get(number, missing):
            columns = [str(number)] * bool(options.n_best) + [f"{score:.6f}"] * options.scores
            yield "\t".join([*columns, _one_line(text)])


def _one_line(text: str) -> str:
    return text.replace("\n", " ")
