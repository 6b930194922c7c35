"""`transformer-jax predict RUN`: a line in, a line out."""

import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from typing import IO, Any

from transformer_jax.cli.errors import user_input
from transformer_jax.cli.lines import read_lines, written
from transformer_jax.cli.parser import open_run, run_parser

DESCRIPTION = """\
Predicts an output for every line of input; an empty line stays empty.
With --scores a line is score<TAB>text, where score is what the search ranked by: log-probability over length penalty.
A text generator writes to a terminal as it goes, line breaks included.
With --n-best N it is number<TAB>text, or number<TAB>score<TAB>text: the number of the input line, from 1, then its
N best outputs, best first, each on a line (fewer where the search found fewer)."""
LINES = 2_048
"""Lines that are read before any is written, so that those of similar length can be batched."""


def main(arguments: Sequence[str]) -> None:
    """Writes predictions while it reads."""
    parser = run_parser("predict", DESCRIPTION)
    parser.add_argument("--input", metavar="FILE", default="-", help="UTF-8 text (.gz and .xz are unpacked); -: stdin")
    parser.add_argument("--output", metavar="FILE", help="written when all is done; default: stdout, at once")
    parser.add_argument("--n-best", metavar="N", type=int, help="the N best outputs of every line")
    parser.add_argument("--scores", action="store_true", help="a score before every output")
    stack = contextlib.ExitStack()
    with user_input():
        run, options = open_run(parser, arguments)
        if options.n_best is not None and options.n_best < 1:
            parser.error(f"--n-best is at least 1, not {options.n_best}")
        predictor = run.predictor(options.checkpoint)
        lines = read_lines(options.input)
        out = stack.enter_context(written(options.output))
    typing = options.input == "-" and sys.stdin.isatty()
    if typing:
        print("type a line and press Enter; Ctrl-D ends", file=sys.stderr)
    with stack:
        streams = out.isatty() and hasattr(predictor, "stream") and options.n_best is None and not options.scores
        for first in itertools.count(1, 1 if typing else LINES):
            with user_input():
                chunk = list(itertools.islice(lines, 1 if typing or streams else LINES))
                if streams and chunk:
                    _stream(predictor, chunk[0], out)
                    continue
                rows = list(_rows(predictor, chunk, first, options.n_best, options.scores))
            if not chunk:
                break
            out.writelines(f"{row}\n" for row in rows)
            out.flush()


def _stream(predictor: Any, line: str, out: IO[str]) -> None:
    """Writes one output as it comes."""
    for piece in predictor.stream(line):
        out.write(piece)
        out.flush()
    out.write("\n")
    out.flush()


def _rows(predictor: Any, lines: list[str], first: int, n_best: int | None, scores: bool) -> Iterator[str]:
    """The lines of output; `first` is the number of the first line of input."""
    try:
        if n_best is None and not scores:
            yield from map(_one_line, predictor.predict(lines))
            return
        if not hasattr(predictor, "search"):
            raise ValueError("the task of this run has no scores; leave out --n-best and --scores")
        for number, hypotheses in enumerate(predictor.search(lines, n_best or 1), first):
            for one in hypotheses:
                columns = [str(number)] * bool(n_best) + [f"{one.score:.6f}"] * scores + [_one_line(one.text)]
                yield "\t".join(columns)
    except ValueError as error:
        place = f"in lines {first} to {first + len(lines) - 1}: " if first > 1 else ""
        raise ValueError(f"{place}{error}") from error


def _one_line(text: str) -> str:
    return text.replace("\n", " ")
