"""Text as token ids, tokenised once into memory-mapped files."""

import json
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Int, Int32

from transformer_jax.data.lines import is_text
from transformer_jax.data.sources import Example

Encoder = Callable[[list[Example]], Mapping[str, list[list[int]]]]
"""Examples to the columns of a batch: token ids, special tokens included."""

CHUNK = 1_000
FACTS = "facts.json"
LENGTHS = "lengths"
"""Of every example, the number of ids of every column; the ids themselves lie end to end in `<column>.ids`."""
ID = np.dtype("<i4")


def readable(examples: Iterable[Example], features: Sequence[str], skipped: Counter[str]) -> Iterator[Example]:
    """The examples without those that have an empty or undecodable text, which are counted in `skipped` by reason.

    Raises ValueError when a feature is missing.
    """
    for example in examples:
        for name in features:
            if name not in example:
                raise ValueError(f"an example has no {name!r}, only {', '.join(example) or 'nothing'}")
        texts = [example[name] for name in features]
        if not all(text.strip() for text in texts):
            skipped["empty"] += 1
        elif not all(map(is_text, texts)):
            skipped["undecodable"] += 1
        else:
            yield example


class TokenizedSplit:
    """The token ids of every example, read from `directory` where they are needed."""

    def __init__(self, directory: Path):
        facts = json.loads((directory / FACTS).read_text(encoding="utf-8"))
        for name, size in facts["bytes"].items():
            file = directory / name
            found = file.stat().st_size if file.is_file() else 0
            if found != size:
                raise ValueError(f"{file} has {found} bytes, not {size}; delete {directory} to make it again")
        self.columns: tuple[str, ...] = tuple(facts["columns"])
        self.skipped: dict[str, int] = facts["skipped"]
        """How many examples were left out, by reason."""
        self.lengths: Int32[np.ndarray, "examples columns"] = np.fromfile(directory / LENGTHS, ID).reshape(
            -1, len(self.columns)
        )
        self._ends = np.cumsum(self.lengths, axis=0, dtype=np.int64)
        self._ids = [np.asarray(np.memmap(directory / f"{name}.ids", ID, "r")) for name in self.columns]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> dict[str, Int32[np.ndarray, " length"]]:
        """The ids of every column of an example."""
        starts = self._ends[index] - self.lengths[index]
        return {
            name: ids[start:end]
            for name, ids, start, end in zip(self.columns, self._ids, starts, self._ends[index], strict=True)
        }

    def padded(
        self, column: str, examples: Int[np.ndarray, " rows"], length: int
    ) -> tuple[Int32[np.ndarray, "rows {length}"], Int32[np.ndarray, " rows"]]:
        """A column's ids of some examples, padded with 0 to `length`, and how many are real; -1 is an empty row."""
        place = self.columns.index(column)
        lengths = np.where(examples < 0, 0, self.lengths[examples, place])
        places = np.arange(length)
        real = places < lengths[:, None]
        starts = self._ends[examples, place] - lengths
        padded = np.zeros(real.shape, np.int32)
        padded[real] = self._ids[place][(starts[:, None] + places)[real]]
        return padded, lengths

    def tokens_at(
        self, examples: Int[np.ndarray, "*shape"], places: Int[np.ndarray, "*shape"]
    ) -> Int32[np.ndarray, "*shape"]:
        """The ids of the first column at these places of these examples."""
        return self._ids[0][self._ends[examples, 0] - self.lengths[examples, 0] + places]

    def report(self, name: str) -> str:
        """One line that says what there is, and what was left out and why."""
        totals, longest = self.lengths.sum(axis=0, dtype=np.int64), self.lengths.max(axis=0)
        # Columns of one number or two, such as labels, are no text.
        texts = [(total, column) for total, column, most in zip(totals, self.columns, longest, strict=True) if most > 2]
        tokens = " and ".join(f"{total:,} {column}".removesuffix(" tokens") for total, column in texts)
        line = f"{name}: {len(self):,} examples, {tokens} tokens"
        return f"{line}; {reasons(self.skipped)}" if self.skipped else line


def tokenize_split(
    examples: Iterable[Example],
    features: Sequence[str],
    encode: Encoder,
    *,
    max_length: int | None,
    directory: Path,
    key: str,
) -> TokenizedSplit:
    """The split of `directory/key`, made from the examples unless it is there.

    Examples with an empty or undecodable feature, or with a column of more than `max_length` ids, are skipped and
    counted. Raises ValueError when a feature is missing or nothing is left.
    """
    place = directory / key
    if _complete(place):
        return TokenizedSplit(place)
    partial = directory / f"{key}.{uuid.uuid4().hex}.partial"
    partial.mkdir(parents=True)
    try:
        _write(examples, features, encode, max_length, partial)
        partial.rename(place)
    except OSError:
        # Another process may have been quicker; what it wrote is the same.
        if not _complete(place):
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return TokenizedSplit(place)


def _complete(place: Path) -> bool:
    return (place / FACTS).is_file()


def _write(
    examples: Iterable[Example], features: Sequence[str], encode: Encoder, max_length: int | None, directory: Path
) -> None:
    """Writes the files of a split, a chunk of examples at a time; the facts come last."""
    skipped: Counter[str] = Counter()
    iterator = readable(examples, features, skipped)
    files: dict[str, IO[bytes]] = {}
    with ExitStack() as stack:
        lengths_file = stack.enter_context((directory / LENGTHS).open("wb"))
        while chunk := list(islice(iterator, CHUNK)):
            columns = encode(chunk)
            files = files or {name: stack.enter_context((directory / f"{name}.ids").open("wb")) for name in columns}
            rows = [row for row in zip(*columns.values(), strict=True) if _fits(row, max_length, skipped)]
            lengths_file.write(np.array([[len(ids) for ids in row] for row in rows], ID).tobytes())
            for column, file in enumerate(files.values()):
                file.write(np.fromiter(chain.from_iterable(row[column] for row in rows), ID).tobytes())
    sizes = {name: (directory / name).stat().st_size for name in [LENGTHS, *(f"{name}.ids" for name in files)]}
    if not sizes[LENGTHS]:
        raise ValueError("there are no examples to learn from" + (f": {reasons(skipped)}" if skipped else ""))
    facts = {"columns": list(files), "skipped": dict(skipped), "bytes": sizes}
    (directory / FACTS).write_text(json.dumps(facts), encoding="utf-8")


def _fits(row: tuple[list[int], ...], max_length: int | None, skipped: Counter[str]) -> bool:
    """Whether every column has 1 to `max_length` ids; the reason is counted."""
    sizes = [len(ids) for ids in row]
    if min(sizes) == 0:
        skipped["empty"] += 1
    elif max_length is not None and max(sizes) > max_length:
        skipped[f"longer than {max_length} tokens"] += 1
    else:
        return True
    return False


def reasons(skipped: Mapping[str, int]) -> str:
    """How many examples were skipped, and why."""
    each = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
    return f"skipped {sum(skipped.values()):,} ({each})"
