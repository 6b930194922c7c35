"""The values of examples, as the kinds that a task needs."""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from transformer_jax.data.lines import is_text
from transformer_jax.data.sources import Example

Kind = Literal["text", "label", "number", "bytes", "array", "image", "audio"]
"""What a task needs: text; the name of a label, which may be a whole number; a finite number; bytes; an array; an
image, which is a file, its bytes or an array of values from 0 to 255; a recording, which is a file, its bytes or an
array of samples."""


LARGEST_FILE = 2**32
"""Bytes of the largest picture or recording; larger ones are skipped."""
_BLOCK = 4_096
"""Bytes of a file's first and last block."""


def readable(
    examples: Iterable[Example], kinds: Mapping[str, Kind], skipped: Counter[str], needed_by: str
) -> Iterator[Example]:
    """The examples, with every feature of `kinds` as that kind.

    Those with an empty or undecodable text are left out and counted in `skipped` by reason. Raises ValueError, with the
    number of the example, for a feature that is missing or of another kind.
    """
    for number, example in enumerate(examples, 1):
        values = {}
        for name, kind in kinds.items():
            if name not in example:
                raise ValueError(f"an example has no {name!r}, only {', '.join(example) or 'nothing'}")
            convert, wanted = KINDS[kind]
            values[name] = convert(example[name])
            if values[name] is None:
                given = f"column {name!r} of example {number} is {_described(example[name])}"
                raise ValueError(f"{given}; {needed_by} needs {wanted}")
        texts = [value for value in values.values() if isinstance(value, str)]
        if not all(text.strip() for text in texts):
            skipped["empty"] += 1
        elif not all(map(is_text, texts)):
            skipped["undecodable"] += 1
        else:
            yield {**example, **values}


@dataclass(frozen=True)
class Unreadable:
    """What stands in a column for an example that is to be skipped: why, and what it is."""

    reason: str
    what: str


def decodable(encode: Callable[[Example], Any], examples: Iterable[Example]) -> list[Any]:
    """What `encode` gives for every example, in threads; `Unreadable` where it raises ValueError or OSError."""

    def encoded(example: Example) -> Any:
        try:
            return encode(example)
        except (OSError, ValueError) as error:
            file = next((str(value) for value in example.values() if isinstance(value, Path)), "")
            if isinstance(error, FileNotFoundError):
                return Unreadable("missing", file)
            why = error.strerror if isinstance(error, OSError) else str(error)
            return Unreadable("undecodable", f"{file}: {why}" if file else str(why))

    with ThreadPoolExecutor() as threads:
        return [*threads.map(encoded, examples)]


def reasons(skipped: Mapping[str, int], first: Mapping[str, str] | None = None) -> str:
    """How many examples were skipped, and why; `first` describes the first one of a reason."""
    each = [f"{count:,} {reason}" for reason, count in skipped.items()]
    if first:
        each = [
            f"{text}, the first {first[of]}" if of in first else text for text, of in zip(each, skipped, strict=True)
        ]
    return f"skipped {sum(skipped.values()):,} ({('; ' if first else ', ').join(each)})"


def digest(examples: Iterable[Any]) -> str:
    """A hash of examples or other values that are JSON, bytes, files or arrays."""
    state = hashlib.blake2b(digest_size=12)
    for example in examples:
        state.update(json.dumps(example, sort_keys=True, default=_plain).encode())
    return state.hexdigest()


def _plain(value: Any) -> Any:
    """The JSON of bytes, of a file or of an array: dtype, shape and hash; null for what cannot be read."""
    if isinstance(value, Unreadable):
        return None
    if isinstance(value, Path):
        value = _mark_of(value)
    array = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value)
    return [str(array.dtype), array.shape, hashlib.blake2b(array.tobytes(), digest_size=12).hexdigest()]


def _mark_of(path: Path) -> bytes:
    """What tells a file from its next version: its size, and its first and last blocks; b"" for none.

    This is read of all files of a set at every start of a run, which may be a million pictures.
    """
    if not path.is_file():
        return b""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            first = file.read(_BLOCK)
            file.seek(max(size - _BLOCK, len(first)))
            return b"%d:" % size + first + file.read(_BLOCK)
    except OSError:
        return b""


def _text(value: Any) -> str | None:
    if value is None:
        return ""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else _only(str)(value)


def _label(value: Any) -> str | None:
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if isinstance(value, int | float | np.number):
        return str(int(value)) if math.isfinite(value) and int(value) == value else None
    return None if value is None else _text(value)


def _number(value: Any) -> float | str | None:
    if isinstance(value, str | bytes) and not value.strip():
        return ""
    try:
        number = math.nan if isinstance(value, bool | np.ndarray) else float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _image(value: Any) -> Any:
    pixels = isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (2, 3)
    return value if pixels or isinstance(value, bytes | Path) else None


def _audio(value: Any) -> Any:
    samples = isinstance(value, np.ndarray) and value.dtype.kind in "if" and value.ndim == 1
    return value if samples or isinstance(value, bytes | Path) else None


def _only(kind: type) -> Callable[[Any], Any]:
    return lambda value: value if isinstance(value, kind) else None


KINDS: dict[Kind, tuple[Callable[[Any], Any], str]] = {
    "text": (_text, "text"),
    "label": (_label, "the name of a label, text or a whole number"),
    "number": (_number, "a finite number"),
    "bytes": (_only(bytes), "bytes"),
    "array": (_only(np.ndarray), "an array"),
    "image": (_image, "a picture's file, its bytes or an array of uint8, [height, width] or [height, width, channels]"),
    "audio": (_audio, "a recording's file, its bytes or an array of its samples"),
}
"""For every kind, the conversion of a value (to None if it cannot be), and its name in messages."""


def _described(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, int | float | np.number):
        return f"the number {value}"
    return {bytes: "bytes", np.ndarray: "an array"}.get(type(value), type(value).__name__)
