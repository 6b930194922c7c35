"""Lines of text in and out of the commands."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from transformer_jax.data.lines import decoded, file_lines, is_text, present

STREAMS = ("-", "/dev/stdout")
"""Names of standard output: a file that it was led to is not to be replaced."""


def read_lines(file: str) -> Iterator[str]:
    """The lines of a file, a pipe or, for `-`, stdin, undecodable bytes as lone surrogates.

    Raises ValueError or FileNotFoundError where they cannot be read.
    """
    if file == "-":
        return decoded(sys.stdin.buffer, "the input")
    return file_lines(present(Path(file)))


def read_aligned(files: Sequence[str], *, undecodable: bool = False) -> list[list[str]]:
    """The lines of several files; ValueError unless there are equally many of them, and some.

    Lines that are not UTF-8 are refused unless `undecodable` lets them in.
    """
    texts = [list(read_lines(file)) for file in files]
    if len({len(lines) for lines in texts}) != 1 or not texts[0]:
        counts = ", ".join(f"{file} has {len(lines):,}" for file, lines in zip(files, texts, strict=True))
        raise ValueError(f"files need as many lines as each other, and at least one, but {counts}")
    for file, lines in zip(files, texts, strict=True):
        wrong = next((number for number, line in enumerate(lines, 1) if not is_text(line)), None)
        if wrong is not None and not undecodable:
            raise ValueError(f"{file} line {wrong} is not UTF-8; convert it, for instance with iconv")
    return texts


class Skipped:
    """Lines that cannot be read or predicted: each is named on stderr by its number, and the others go on."""

    def __init__(self):
        self.count = 0

    def each(self, call: Callable[[list[Any]], Sequence[Any]], items: Mapping[int, Any]) -> dict[int, Any]:
        """What `call` gives for a list of the items, by their numbers; without those that it raises ValueError for.

        They are found by halves: few bad ones among many cost few calls, whoever finds them bad.
        """
        if not items:
            return {}
        try:
            return dict(zip(items, call(list(items.values())), strict=True))
        except ValueError as error:
            if len(items) == 1:
                self.say(next(iter(items)), str(error))
                return {}
        pairs, half = list(items.items()), len(items) // 2
        return self.each(call, dict(pairs[:half])) | self.each(call, dict(pairs[half:]))

    def texts(self, lines: Sequence[Any], first: int) -> dict[int, Any]:
        """The lines, or pairs of them, by their numbers from `first` on, without those that are not UTF-8."""
        numbered = dict(enumerate(lines, first))
        for number in [number for number, line in numbered.items() if not is_text("".join(line))]:
            self.say(number, "it is not UTF-8; convert the file, for instance with iconv")
            del numbered[number]
        return numbered

    def say(self, number: int, reason: str) -> None:
        """Says why a line is skipped; the reason may call it line 1, as it is of a list of one."""
        self.count += 1
        reason = " ".join(reason.removeprefix("line 1 ").split())
        print(f"line {number:,} is skipped: {reason}", file=sys.stderr, flush=True)

    def end(self, lines: int) -> None:
        """Says how many of the lines were skipped; ValueError where all were."""
        if self.count and self.count == lines:
            raise ValueError(f"none of {lines:,} lines could be used, for the reasons above")
        if self.count:
            print(f"{self.count:,} of {lines:,} lines are skipped", file=sys.stderr)


@contextlib.contextmanager
def written(file: str | None) -> Iterator[TextIO]:
    """Stdout, or a file that has its name when all has been written: before, and after an error, NAME.partial.

    A link is followed; a pipe or a device is written to as it is.
    """
    if file is None or file in STREAMS:
        yield sys.stdout
        return
    path = Path(file)
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", newline="\n") as out:
            yield out
        return
    path = path.resolve()
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as out:
            yield out
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            if partial.stat().st_size:
                print(f"what was done before is in {partial}", file=sys.stderr)
            else:
                partial.unlink()
        raise
