"""Lines of text in and out of the commands."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from transformer_jax.data.lines import decoded, existing, file_lines, is_text


def read_lines(file: str) -> Iterator[str]:
    """The lines of a file, or of stdin for `-`; ValueError or FileNotFoundError where they cannot be read."""
    stdin = file == "-"
    name = "the input" if stdin else file
    lines = decoded(sys.stdin.buffer, name) if stdin else file_lines(existing(Path(file)))
    for number, line in enumerate(lines, 1):
        if not is_text(line):
            raise ValueError(f"{name} line {number} is not UTF-8; convert it, for instance with iconv")
        yield line


def read_aligned(files: Sequence[str]) -> list[list[str]]:
    """The lines of several files; ValueError unless there are equally many of them, and some."""
    texts = [list(read_lines(file)) for file in files]
    if len({len(lines) for lines in texts}) != 1 or not texts[0]:
        counts = ", ".join(f"{file} has {len(lines):,}" for file, lines in zip(files, texts, strict=True))
        raise ValueError(f"files need as many lines as each other, and at least one, but {counts}")
    return texts


@contextlib.contextmanager
def written(file: str | None) -> Iterator[TextIO]:
    """Stdout, or a file that appears when all has been written and not before."""
    path = Path(file or "-")
    if file is None or file == "-":
        yield sys.stdout
    elif path.exists() and not path.is_file():  # /dev/null, a named pipe: not to be replaced
        with path.open("w", encoding="utf-8", newline="\n") as out:
            yield out
    else:
        partial = path.with_name(path.name + ".partial")
        try:
            with partial.open("w", encoding="utf-8", newline="\n") as out:
                yield out
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
