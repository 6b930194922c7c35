"""Lines of text in and out of the commands."""

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from transformer_jax.cli.errors import UserError, user_input
from transformer_jax.data.lines import decoded, file_lines, is_text, present

STREAMS = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
"""Names of standard output, which may be a file that is not to be replaced."""
LINES = 2_048
"""Lines that are read before any is written, so that those of similar length can be batched."""
NOT_UTF8 = "is not UTF-8; convert the file, for instance with iconv"


def read_lines(file: str) -> Iterator[str]:
    """The lines of a file, a pipe or, for `-`, stdin, undecodable bytes as lone surrogates; ValueError for others."""
    if file == "-":
        return decoded(sys.stdin.buffer, "the input")
    return file_lines(present(Path(file)))


def read_aligned(files: Sequence[str], *, undecodable: bool = False) -> list[list[str]]:
    """The lines of several files; ValueError unless these are equally many, and UTF-8 if not `undecodable`."""
    texts = [list(read_lines(file)) for file in files]
    if len({len(lines) for lines in texts}) != 1 or not texts[0]:
        counts = ", ".join(f"{file} has {len(lines):,}" for file, lines in zip(files, texts, strict=True))
        raise ValueError(f"files need as many lines as each other, and at least one, but {counts}")
    for file, lines in zip(files, texts, strict=True):
        wrong = next((number for number, line in enumerate(lines, 1) if not is_text(line)), None)
        if wrong is not None and not undecodable:
            raise ValueError(f"{file} line {wrong} {NOT_UTF8}")
    return texts


def predictions(
    lines: Iterator[Any],
    call: Callable[[list[Any]], Sequence[Any]],
    *,
    size: int = LINES,
    needed: Callable[[Any], Any] = lambda line: True,
) -> Iterator[list[tuple[int, Any]]]:
    """Results of `call` for lists of lines (or pairs of them) that are `needed`, `size` at a time, with their numbers.

    Lines that are not UTF-8 or that `call` raises ValueError for are named on stderr by their numbers and have the
    result None, and the others go on. Raises UserError in the end if no line could be used.
    """
    count = skipped = 0
    while chunk := _next(lines, size):
        numbered = dict(enumerate(chunk, count + 1))
        count += len(chunk)
        texts = {number: line for number, line in numbered.items() if is_text("".join(line))}
        results: dict[int, Any] = dict.fromkeys(numbered.keys() - texts.keys(), ValueError(f"it {NOT_UTF8}"))
        results |= _each(call, {number: line for number, line in texts.items() if needed(line)})
        for number in sorted(results):
            if isinstance(results[number], ValueError):
                skipped += 1
                # Called for it alone, it is line 1.
                reason = " ".join(str(results.pop(number)).removeprefix("line 1 ").split())
                print(f"line {number:,} is skipped: {reason}", file=sys.stderr, flush=True)
        yield [(number, results.get(number)) for number in numbered]
    if skipped and skipped == count:
        raise UserError(f"none of {count:,} lines could be used, for the reasons above")
    if skipped:
        print(f"{skipped:,} of {count:,} lines are skipped", file=sys.stderr)


def _next(lines: Iterator[Any], size: int) -> list[Any]:
    with user_input():
        return list(itertools.islice(lines, size))


def _each(call: Callable[[list[Any]], Sequence[Any]], lines: Mapping[int, Any]) -> dict[int, Any]:
    """The results of `call`, or its ValueError, for every line; a few bad lines, found by halves, cost few calls."""
    if not lines:
        return {}
    try:
        return dict(zip(lines, call(list(lines.values())), strict=True))
    except ValueError as error:
        if len(lines) == 1:
            return dict.fromkeys(lines, error)
    pairs, half = list(lines.items()), len(lines) // 2
    return _each(call, dict(pairs[:half])) | _each(call, dict(pairs[half:]))


@contextlib.contextmanager
def written(file: str | None) -> Iterator[TextIO]:
    """Stdout, or a file that is called NAME.partial until all has been written; links are followed.

    A pipe or a device is opened under its own name, and what is open already, such as /dev/fd/3, is written on.
    """
    if file is None or file in STREAMS:
        yield sys.stdout
        return
    path = Path("/dev/fd/2" if file == "/dev/stderr" else file)
    if path.name.isdecimal() and str(path.parent) in ("/dev/fd", "/proc/self/fd"):
        with os.fdopen(os.dup(int(path.name)), "w", encoding="utf-8", newline="\n") as out:
            yield out
        return
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", newline="\n") as out:
            yield out
        return
    path = Path(os.path.realpath(path))
    if path.is_symlink():
        raise UserError(f"{file} is a link that leads to itself; name another file")
    names = itertools.chain([path.name], (f"{path.name}.{count}" for count in itertools.count(2)))
    partials = (path.with_name(f"{name}.partial") for name in names)
    partial = next(partial for partial in partials if not partial.exists())  # others hold what was done before
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
