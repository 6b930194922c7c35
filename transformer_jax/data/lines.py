"""Lines of text files: UTF-8, ended by newlines only, gzip and xz unpacked."""

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from transformer_jax.data.nearest import did_you_mean

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
"""How files are opened, by the ends of their names; others as they are."""


def existing(path: Path, what: str = "") -> Path:
    """The path; FileNotFoundError, with the nearest name there is, when no file is there."""
    if not path.is_file():
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")])
        raise FileNotFoundError(f"there is no file {path.absolute()}{f', {what}' if what else ''}{near}")
    return path


def file_lines(path: Path) -> Iterator[str]:
    """The lines of a file, as `decoded` gives them; ValueError where it is damaged."""
    with OPENERS.get(path.suffix, open)(path, "rb") as file:
        yield from decoded(file, str(path))


def decoded(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Lines without their ends and without a byte order mark.

    Bytes that are no UTF-8 become lone surrogates, so that whoever reads can count or refuse the line. Raises
    ValueError when what is compressed ends early or is damaged.
    """
    try:
        for number, line in enumerate(lines):
            text = line.decode("utf-8" if number else "utf-8-sig", "surrogateescape")
            yield text.removesuffix("\n").removesuffix("\r")
    except (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{name} ends early or is damaged: {error}") from error


def is_text(line: str) -> bool:
    """Whether the line can be written as UTF-8: it holds no lone surrogate."""
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
