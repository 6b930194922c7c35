"""Lines of text files: UTF-8 (or UTF-16 and UTF-32 by their mark), ended by newlines only, gzip and xz unpacked."""

import codecs
import gzip
import itertools
import json
import lzma
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from transformer_jax.data.nearest import did_you_mean

OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
"""Readers of compressed files, by the ends of their names."""
MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
MARKS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
"""Encodings by byte order mark; those of UTF-32 come first, as one of them begins with one of UTF-16."""
LARGEST = 2**28
"""Bytes of a file that is read at once."""
HEAD = 4_096
"""Bytes at the beginning of a file in which UTF-16 without a mark is looked for."""


def existing(path: Path, what: str = "") -> Path:
    """The path of a file that can be read more than once; FileNotFoundError or ValueError for anything else."""
    if not present(path, what).is_file():
        name = f"{path}, {what}," if what else path
        raise ValueError(f"{name} is read more than once: give a file, no pipe or device")
    return path


def present(path: Path, what: str = "") -> Path:
    """The path of whatever can be opened and read; FileNotFoundError, with the nearest name, for anything else."""
    name = f"{path.absolute()}{f', {what},' if what else ''}"
    if path.is_dir():
        raise FileNotFoundError(f"{name} is a directory, not a file")
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{name} is a link to {path.readlink()}, where no file is")
    if not path.exists():
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*")])
        raise FileNotFoundError(f"there is no file {name.removesuffix(',')}{near}")
    return path


def file_lines(path: Path) -> Iterator[str]:
    """The lines of a file, as `decoded` gives them; ValueError if it is damaged or not UTF-8."""
    with OPENERS.get(path.suffix, open)(path, "rb") as file:
        yield from decoded(file, str(path))


def decoded(lines: Iterable[bytes], name: str) -> Iterator[str]:
    """Lines without their ends and without a byte order mark, which tells UTF-16 and UTF-32.

    Bytes that cannot be decoded become lone surrogates, so that whoever reads can count or refuse the line. Raises
    ValueError when what is compressed ends early or is damaged, and for UTF-16 or UTF-32 without a mark.
    """
    lines = iter(lines)
    try:
        first = next(lines, b"")
        encoding = next((encoding for mark, encoding in MARKS.items() if first.startswith(mark)), None)
        rest = itertools.chain([first] if first else [], lines)
        for text in _utf8(rest, name) if encoding is None else _wide(rest, encoding):
            yield text.removesuffix("\n").removesuffix("\r")
    except (EOFError, UnicodeDecodeError, gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{name} ends early or is damaged: {error}") from error


def _utf8(lines: Iterator[bytes], name: str) -> Iterator[str]:
    head = b""
    for number, line in enumerate(lines):
        if len(head) < HEAD:
            head += line[:HEAD]
            if wide := _wide_encoding(head):
                raise ValueError(f"{name} is {wide} without a byte order mark; convert it: iconv -f {wide} -t UTF-8")
        yield line.decode("utf-8" if number else "utf-8-sig", "surrogateescape")


def _wide_encoding(head: bytes) -> str:
    """UTF-16 or UTF-32 if the places of its NULs show that a file is in one of them, else an empty text."""
    zeros = [head[place::4].count(0) for place in range(4)]
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    nuls = even + odd
    if nuls < max(2, (0.05 if nuls > 3 else 0.4) * len(head)):  # a text may hold some
        return ""
    if not even or not odd:
        return "UTF-16BE" if even else "UTF-16LE"
    if nuls > 0.4 * len(head):
        return "UTF-32BE" if zeros[0] > zeros[3] else "UTF-32LE"
    return ""


def _wide(lines: Iterator[bytes], encoding: str) -> Iterator[str]:
    """The lines of an encoding in which a byte 10 need not be a newline."""
    rest = ""
    for part in codecs.iterdecode(lines, encoding, "surrogatepass"):
        *whole, rest = (rest + part).split("\n")
        yield from whole
    if rest:
        yield rest


def parsed(text: str | bytes, where: str, *, unique: bool = False) -> Any:
    """The value of a JSON text; ValueError for any other, such as a number of more digits than Python reads.

    With `unique`, an object with a name that is there twice is refused as well.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        return json.loads(text, object_pairs_hook=_unique if unique else None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON, or damaged: {error}") from None


def json_object(text: bytes, where: str, *, unique: bool = False) -> dict[str, Any]:
    """The JSON object of a text; ValueError for anything else, as of `parsed`."""
    value = parsed(text, where, unique=unique)
    if not isinstance(value, dict):
        raise ValueError(f"{where} is damaged: it is no JSON object")
    return value


def read_json(path: Path, *, unique: bool = False) -> dict[str, Any]:
    """The JSON object of a file that is `own`; ValueError for anything else, as of `parsed`."""
    return json_object(own(path).read_bytes(), str(path), unique=unique)


def own(path: Path) -> Path:
    """The path of a file of a published directory; ValueError for one that is too large to be read at once.

    A link out of the directory is refused as well, which could carry a private file into what is written and shared.
    """
    if not is_inside(path, path.parent):
        raise ValueError(f"{path} is a link to {path.resolve()}, out of its directory; copy the file itself there")
    if (size := path.stat().st_size) > LARGEST:
        raise ValueError(f"{path} has {size:,} bytes; files of its kind have {LARGEST:,} at most")
    return path


def is_inside(path: Path, directory: Path) -> bool:
    """Whether a file is no link to elsewhere; those of the hub's cache are links to the blobs beside its snapshots."""
    home = directory.resolve()
    places = [home, *(parent.with_name("blobs") for parent in home.parents if parent.name == "snapshots")]
    return any(path.resolve().is_relative_to(place) for place in places)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        (name, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it names {name} twice")
    return found


def is_text(line: str) -> bool:
    """Whether the line can be written as UTF-8: it holds no lone surrogate."""
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:  # that of a full disk names no file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


LONGEST = 4_000
"""Letters of a message; what is longer is cut off."""


def one_line(error: BaseException) -> str:
    """The message of an error on one line, cut to `LONGEST`; what cannot be printed, such as escapes, is replaced."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.strerror}: {error.filename}"
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text[:LONGEST])
