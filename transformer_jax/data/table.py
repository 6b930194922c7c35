"""The columns of all examples in one Arrow file, encoded once and read through memory."""

import json
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int, Int32

from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.examples import Unreadable, reasons
from transformer_jax.data.sources import Example

Encoder = Callable[[list[Example]], Mapping[str, Sequence[Any]]]
"""From examples to the values of every column: lists, arrays, numbers or bytes."""

Draws = Callable[[int], Iterator[float]]
CHUNK = 1_000
"""Examples that are encoded at once, into one Arrow batch."""
EXAMPLE = "example"
"""What `encode` calls the index of each row's example, if it gives several rows of one; so does the file."""


class Table:
    """The columns of every example, read from a memory-mapped file on demand; ValueError for a damaged file."""

    def __init__(self, path: Path, columns: Columns):
        self.columns = columns
        try:
            file = pa.memory_map(str(path)).read_buffer()
            reader = pa.ipc.open_file(pa.BufferReader(file))
            *batches, (_, facts) = map(reader.get_batch_with_custom_metadata, range(reader.num_record_batches))
            self.skipped: dict[str, int] = json.loads(facts[b"skipped"])
            """How many examples were left out, by reason."""
            self.first_skipped: dict[str, str] = json.loads(facts.get(b"first_skipped", b"{}"))
            """The first of them, where it can be named, by reason."""
        except (pa.ArrowException, OSError, TypeError, ValueError, KeyError) as error:
            raise ValueError(f"{path} is damaged: {error}; delete it to make it again") from error
        self._values, self._starts, self._counts = {}, {}, {}
        for name, column in columns.items():
            dtype = _stored_dtype(column)
            # One view of the whole file, into which the starts are indices.
            self._values[name] = np.frombuffer(file, dtype, len(file) // dtype.itemsize)
            spans = zip(*(_spans(batch.column(name), column, file.address) for batch, _ in batches), strict=True)
            self._starts[name], self._counts[name] = map(np.concatenate, spans)
        self.examples = np.concatenate([batch.column(EXAMPLE).to_numpy().astype(np.int32) for batch, _ in batches])
        """For every row, the index of its example among those that were encoded; ascending."""
        self._batched = {name: column for name, column in columns.items() if column.batched}
        lengths = [
            self._counts[name] // column.size if column.varying else np.full(len(self.examples), column.tokens)
            for name, column in self._batched.items()
        ]
        self.lengths: Int32[np.ndarray, "rows columns"] = np.stack(lengths, axis=1).astype(np.int32)
        """The number of items of every row in every column of batches, or `Column.tokens` without `varying`."""

    def __len__(self) -> int:
        return len(self.lengths)

    def column(self, name: str) -> list[np.ndarray]:
        """A column of all rows, without padding; of a column with `decode`, the bytes."""
        column, values = self.columns[name], self._values[name]
        shape = (-1,) if column.decode else (-1, *column.item_shape) if column.varying else column.item_shape
        spans = zip(self._starts[name].tolist(), self._counts[name].tolist(), strict=True)
        return [values[start : start + count].reshape(shape) for start, count in spans]

    def batch(
        self, examples: Int[np.ndarray, " rows"], lengths: Sequence[int], draws: Draws | None = None
    ) -> dict[str, np.ndarray]:
        """The columns of some examples as arrays of these lengths, padded with 0; -1 is an empty row.

        `draws` gives the random numbers of an example, by which columns with `decode` are varied.
        """
        arrays: dict[str, np.ndarray] = {}
        for (name, column), length in zip(self._batched.items(), lengths, strict=True):
            array = arrays[name] = column.zeros(len(examples), length)
            starts, values = self._starts[name][examples], self._values[name]
            counts = np.where(examples < 0, 0, self._counts[name][examples])
            rows = array.reshape(len(array), -1)
            if column.size == 1 and not column.decode:  # All rows at once are faster for few numbers a row.
                offsets = np.arange(rows.shape[1])
                real = offsets < counts[:, None]
                rows[real] = values[(starts[:, None] + offsets)[real]]
            else:
                spans = zip(rows, examples.tolist(), starts.tolist(), counts.tolist(), strict=True)
                for row, example, start, count in spans:
                    value = values[start : start + count]
                    if column.decode is None:
                        row[:count] = value
                    elif count:
                        row[:] = column.decode(value.tobytes(), draws and draws(example)).reshape(-1)
            if column.varying:
                arrays[f"{name}_length"] = (counts // column.size).astype(np.int32)
        return arrays

    def tokens_at(
        self, examples: Int[np.ndarray, "*shape"], places: Int[np.ndarray, "*shape"]
    ) -> Int32[np.ndarray, "*shape"]:
        """The ids of the first column at these places of these examples."""
        first = next(iter(self.columns))
        return self._values[first][self._starts[first][examples] + places]

    @property
    def left_out(self) -> str:
        """How many examples were left out, and why."""
        return reasons(self.skipped, self.first_skipped)

    def report(self, name: str, labels: int = 0) -> str:
        """Counts of examples, of their labels if there are any, and of items, and of what was left out and why."""
        totals = zip(self._batched.items(), self.lengths.sum(axis=0, dtype=np.int64).tolist(), strict=True)
        varying = [(name, column, total) for (name, column), total in totals if column.varying]
        items = " and ".join(f"{total:,} {name}" for name, _, total in varying)
        if any(np.dtype(column.dtype).kind != "f" for _, column, _ in varying):
            items = items.removesuffix(" tokens") + " tokens"
        line = ", ".join(
            filter(None, (f"{name}: {len(self):,} examples", f"{labels:,} labels" if labels else "", items))
        )
        return f"{line}; {self.left_out}" if self.skipped else line


class EncodedExamples(list[Example]):
    """Examples of a split together with the table of their columns, in which examples that were skipped have no row."""

    def __init__(self, examples: Iterable[Example], table: Table):
        super().__init__(examples)
        self.table = table
        self.of_rows: list[int] = table.examples[: np.searchsorted(table.examples, len(self))].tolist()
        """For every row of the table that belongs to these examples, the index of its example."""

    def column(self, name: str) -> list[np.ndarray]:
        """A column of all rows, such as token ids, without padding."""
        return self.table.column(name)[: len(self.of_rows)]

    def of_row(self, feature: str) -> list[Any]:
        """A feature of the example of every row."""
        return [self[index][feature] for index in self.of_rows]


def encode_table(
    examples: Iterable[Example],
    encode: Encoder,
    columns: Columns,
    *,
    max_length: int | None,
    path: Path,
    skipped: Counter[str],
) -> Table:
    """The table in the file `path`, made from the examples if the file does not exist.

    Rows with a column that is empty or has more than `max_length` items are left out and counted in `skipped`, beside
    the examples that were left out before. Raises ValueError when `encode` does not give the columns or no row is left.
    """
    if path.is_file():
        return Table(path, columns)
    first: dict[str, str] = {}

    def batches(schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        iterator, before = iter(examples), 0
        while chunk := list(islice(iterator, CHUNK)):
            encoded = {EXAMPLE: range(len(chunk)), **encode(chunk)}
            if encoded.keys() != {EXAMPLE, *columns}:
                given = ", ".join(name for name in encoded if name != EXAMPLE)
                raise ValueError(f"the task's columns are {', '.join(columns)}, but encode gives {given}")
            if len({len(values) for values in encoded.values()}) > 1:
                raise ValueError(
                    f"encode gives columns of different lengths; with several rows of an example, also {EXAMPLE!r}, "
                    "the index of each row's example among those that it was given"
                )
            rows = zip(encoded.pop(EXAMPLE), *(encoded[name] for name in columns), strict=True)
            if kept := [row for row in rows if _fits(row[1:], columns.values(), max_length, skipped, first)]:
                numbers, *values = zip(*kept, strict=True)
                arrays = [_arrow_array(each, *of) for each, of in zip(values, columns.items(), strict=True)]
                yield pa.record_batch([*arrays, pa.array(np.add(numbers, before), pa.int64())], schema)
            before += len(chunk)

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    types = {name: _arrow_type(column) for name, column in columns.items()}
    schema = pa.schema(types | {EXAMPLE: pa.int64()})
    try:
        with pa.OSFile(str(partial), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            written = 0
            for batch in batches(schema):
                writer.write_batch(batch)
                written += 1
            if not written:
                raise ValueError("no example is left" + (f": {reasons(skipped, first)}" if skipped else ""))
            # What was skipped is known at the end: an empty batch holds it.
            nothing = pa.RecordBatch.from_pylist([], schema)
            facts = {"skipped": json.dumps(skipped), "first_skipped": json.dumps(first)}
            writer.write_batch(nothing, custom_metadata=facts)
        # Another process may have been quicker, and may be reading; what it wrote is the same.
        if not path.is_file():
            partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return Table(path, columns)


def _fits(
    row: Sequence[Any],
    columns: Iterable[Column],
    max_length: int | None,
    skipped: Counter[str],
    first: dict[str, str],
) -> bool:
    """Whether every column of varying length has 1 to `max_length` items, or `Column.longest`; the reason is counted.

    So is a column that `encode` gave as `Unreadable`, the first of which is kept in `first`, or as None, because its
    value cannot be decoded.
    """
    if unreadable := next((value for value in row if isinstance(value, Unreadable)), None):
        skipped[unreadable.reason] += 1
        first.setdefault(unreadable.reason, unreadable.what)
        return False
    if any(value is None for value in row):
        skipped["undecodable"] += 1
        return False
    varying = [pair for pair in zip(row, columns, strict=True) if pair[1].varying and pair[1].batched]
    sizes = [(len(value), column.longest or max_length) for value, column in varying]
    if any(size == 0 for size, _ in sizes):
        skipped["empty"] += 1
    elif too_long := [most for size, most in sizes if most is not None and size > most]:
        skipped[f"longer than {too_long[0]} tokens"] += 1
    else:
        return True
    return False


def _stored_dtype(column: Column) -> np.dtype:
    return np.dtype(np.uint8 if column.decode else column.dtype)


def _arrow_type(column: Column) -> pa.DataType:
    """The numbers of a row, or its bytes, as one list, whatever the shape of an item."""
    return pa.large_list(pa.from_numpy_dtype(_stored_dtype(column)))


def _arrow_array(values: Sequence[Any], name: str, column: Column) -> pa.Array:
    flat, many = _flat(values, name, column), column.varying or column.decode
    sizes = [len(value) * (1 if column.decode else column.size) if many else column.size for value in values]
    return pa.LargeListArray.from_arrays(pa.array(np.cumsum([0, *sizes])), pa.array(flat))


def _flat(values: Sequence[Any], name: str, column: Column) -> np.ndarray:
    """The numbers of all values, end to end; ValueError for what the column cannot hold."""
    try:
        if column.decode:
            return np.frombuffer(b"".join(values), np.uint8)
        if not column.varying:
            array = np.asarray(values)
        elif isinstance(values[0], np.ndarray):
            array = np.concatenate(values)
        else:
            array = np.asarray(list(chain.from_iterable(values)))
        if array.shape[1:] != column.item_shape or not np.can_cast(array.dtype, column.dtype, "same_kind"):
            raise TypeError(f"items are {array.dtype} {list(array.shape[1:])}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"what encode gives for {name!r} is no {column}: {error}") from error
    return array.astype(column.dtype, copy=False).reshape(-1)


def _spans(array: pa.Array, column: Column, file: int) -> tuple[np.ndarray, np.ndarray]:
    """Starts, counted from the address of the file, and counts of the numbers of every row."""
    *_, data = array.buffers()
    ends = array.offsets.to_numpy()
    return (data.address - file) // _stored_dtype(column).itemsize + ends[:-1], np.diff(ends)
