"""Lines of text in and out: UTF-8, ended by newlines only."""

import contextlib
import gzip
import lzma
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from transformer_jax.training.nearest import did_you_mean

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
"""How files are opened, by the ends of their names; others as they are."""


def read_lines(file: str) -> Iterator[str]:
    """The lines of a file, or of stdin for `-`; ValueError or FileNotFoundError where they cannot be read."""
    name, number = "the input" if file == "-" else file, 0
    try:
        with _open(file) as lines:
            for number, line in enumerate(lines, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield text.removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError(f"{name} line {number} is not UTF-8; convert it, for instance with iconv") from None
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise ValueError(f"{name} ends early or is damaged: {error}") from error


def read_aligned(files: Sequence[str]) -> list[list[str]]:
    """The lines of several files; ValueError unless there are equally many of them, and some."""
    texts = [list(read_lines(file)) for file in files]
    if len({len(lines) for lines in texts}) != 1 or not texts[0]:
        counts = ", ".join(f"{file} has {len(lines):,}" for file, lines in zip(files, texts, strict=True))
        raise ValueError(f"files need as many lines as each other, and at least one, but {counts}")
    return texts


def _open(file: str) -> contextlib.AbstractContextManager[Iterable[bytes]]:
    path = Path(file)
    if file == "-":
        return contextlib.nullcontext(sys.stdin.buffer)
    if not path.exists():
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")])
        raise FileNotFoundError(f"there is no file {file}{near}")
    return OPENERS.get(path.suffix, open)(path, "rb")


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
