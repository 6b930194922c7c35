"""Where examples come from."""

import csv
import hashlib
import inspect
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.lines import existing, file_lines, parsed

Example = dict[str, Any]
"""The values of an example by feature: text, numbers, bytes, NumPy arrays or None, as {"frames": array, "label": 3}."""
SPLITS = ("train", "validation", "test")
LONGEST_CELL = 2**31 - 1
"""Most characters of a text in a .csv file: what a C long holds everywhere."""
PARQUET_ROWS = 256
"""Rows of a .parquet file that are in memory at once; each may hold a picture."""
PREPARE = (  # `tfds build` would need apache_beam and mlcroissant as well
    "run once on a machine with TensorFlow (pip install tensorflow tensorflow-datasets importlib_resources): python -c "
    "\"import tensorflow_datasets as tfds; tfds.builder('{}', data_dir='{}', file_format='array_record')"
    '.download_and_prepare()"'
)


@dataclass(frozen=True)
class Source:
    """Examples by split. A source of your own overrides `examples`, and `splits` unless it has all three."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have examples: all but those whose field of that name, if there is one, is empty."""
        return tuple(split for split in SPLITS if getattr(self, split, True))

    def examples(self, split: str) -> Iterable[Example]:
        """The examples of a split, in an order that is always the same; ValueError for an unknown split."""
        raise NotImplementedError

    def fingerprint(self, split: str) -> str | None:
        """A hash of the split's content, or None if reading all examples is as cheap."""
        return None


@dataclass(frozen=True)
class SplitFiles(Source):
    """A source whose splits are named files of a directory."""

    directory: Annotated[str, MAY_CHANGE] = "."
    """Where the files are."""
    train: tuple[str, ...] = ()
    """Files to learn from; .gz and .xz are unpacked."""
    validation: tuple[str, ...] = ()
    """The same for validation."""
    test: tuple[str, ...] = ()
    """The same for the final score."""

    def files(self, split: str) -> list[Path]:
        """The files of a split, those of `train` for one that is held out; ValueError or FileNotFoundError for none."""
        check_split(self, split)
        directory = self.place()
        field = split if getattr(self, split) else "train"
        return [existing(directory / name, f"data.source.{field}") for name in getattr(self, field)]

    def place(self) -> Path:
        """The directory; FileNotFoundError for none."""
        directory = Path(self.directory).expanduser().absolute()
        if not directory.is_dir():
            raise FileNotFoundError(f"there is no directory {directory}; set data.source.directory")
        return directory

    def digest(self, split: str, *facts: Any) -> str:
        """A hash of the split's files, not of their directory's name, and of what decides how they are read."""
        return digest_files(self.files(split), facts)


@dataclass(frozen=True)
class HeldOut(SplitFiles):
    """Files of which a part may be held out from training."""

    held_out: ClassVar[tuple[str, ...]] = ("validation",)
    """Splits that take a part of the training files unless they have files of their own."""

    holdout: float = 0.0
    """Share of the training examples held out for validation and, of `Files` and pictures, as much for test, unless
    those have files of their own."""

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(split for split in SPLITS if getattr(self, split) or (self.train and self.holds_out(split)))

    def holds_out(self, split: str) -> bool:
        """Whether the split is a part of the training files; ValueError for a share that leaves none to train on."""
        return bool(self._from_train()) if split == "train" else split in self._from_train()

    def belongs(self, split: str) -> Callable[[str], bool]:
        """A function that says whether a text falls in the split, which is always true for a split of whole files."""
        held_out, holdout = self._from_train(), self.holdout
        return (lambda text: split_of(text, holdout, held_out) == split) if self.holds_out(split) else lambda text: True

    def _from_train(self) -> tuple[str, ...]:
        if not 0 <= self.holdout < 1 / len(self.held_out):
            raise ValueError(f"data.source.holdout is a share below {1 / len(self.held_out):g}, not {self.holdout}")
        return tuple(split for split in self.held_out if self.holdout and not getattr(self, split))


def split_of(text: str, holdout: float, held_out: Sequence[str] = ("validation", "test")) -> str:
    """The split of a text, by its hash alone: each of `held_out` has a share `holdout` of all texts."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    split = "validation" if place < holdout else "test" if place < 2 * holdout else "train"
    return split if split in held_out else "train"


@dataclass(frozen=True)
class Files(HeldOut):
    """Files of text: one for each feature, line-aligned, or one table for all.

    A split names its files in the order of `features`, or one table: .tsv (without a header), .csv (with one), .jsonl
    and .parquet, all but the last also as .gz or .xz. The last two may hold numbers, the last bytes. Text is UTF-8, or
    UTF-16 or UTF-32 with a byte order mark; lines end at newlines only. Texts that cannot be decoded or are empty are
    examples too, to be counted and skipped.
    """

    held_out: ClassVar[tuple[str, ...]] = ("validation", "test")

    features: tuple[str, ...] = ("source", "target")
    """What the files, or the columns of the table, are called in an example."""
    columns: tuple[str, ...] = ()
    """Columns of a table: numbers from 0 (.tsv; default: the first ones) or names (default: those of the features)."""
    holdout_by: str = ""
    """Examples with the same text of this feature fall in the same split; empty: the first feature but `label`."""

    def examples(self, split: str) -> Iterator[Example]:
        """The examples of a split; ValueError or FileNotFoundError for files that are not as described."""
        _check_columns(self)
        if self.holdout_by and self.holdout_by not in self.features:
            raise ValueError(f"data.source.holdout_by is one of {', '.join(self.features)}, not {self.holdout_by!r}")
        paths = self.files(split)
        tables = [table for table in map(_table, paths) if table]
        if tables and len(paths) == 1:
            rows = tables[0](paths[0], self.features, self.columns)
        elif len(paths) == len(self.features) and not tables:
            rows = _aligned(paths, self.features)
        else:
            raise ValueError(
                f"data.source.{split} names {', '.join(path.name for path in paths)}; give one text file for each of "
                f"{', '.join(self.features)}, or a single {', '.join(TABLES)} file"
            )
        return self._part(rows, split) if self.holds_out(split) else rows

    def fingerprint(self, split: str) -> str:
        facts = (getattr(self, split) or self.train, self.features, self.columns)
        if self.holdout:
            facts += (split, self.holdout, self.holdout_by, bool(self.validation), bool(self.test))
        return self.digest(split, *facts)

    def _part(self, rows: Iterable[Example], split: str) -> Iterator[Example]:
        """The rows of the training files that belong to the split; ValueError if none does."""
        by = self.holdout_by or next((name for name in self.features if name != "label"), self.features[0])
        belongs = self.belongs(split)
        part = (row for row in rows if belongs(_as_text(row[by])))
        if (first := next(part, None)) is None:
            raise ValueError(f"no example falls in the {split} split; data.source.holdout {self.holdout} is too small")
        yield first
        yield from part


@dataclass(frozen=True)
class Tfds(Source):
    """A TensorFlow data set, prepared as array_record, read without TensorFlow."""

    name: str
    """Such as wmt14_translate/de-en; a version may follow, as in wmt14_translate/de-en:1.0.0."""
    columns: tuple[str, ...] = ()
    """The data set's names of the features, a nested one with a dot; empty: those of the features."""
    data_dir: Annotated[str, MAY_CHANGE] = ""
    """Where data sets are prepared; empty: $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    train: str = "train"
    """The data set's split of the training examples; slices such as train[:1%] are splits too."""
    validation: str = "validation"
    """Its split of the validation examples; empty: none."""
    test: str = "test"
    """Its split of the test examples; empty: none."""
    features: tuple[str, ...] = ("source", "target")
    """What the columns are called in an example."""

    def examples(self, split: str) -> Iterator[Example]:
        """The examples of a split; FileNotFoundError, with the command to run, for a set that is not prepared."""
        from tensorflow_datasets.core.decode.base import SkipDecoding
        from tensorflow_datasets.core.features.image_feature import Image

        builder = self._builder(split)
        pictures = {name: SkipDecoding() for name, kind in builder.info.features.items() if isinstance(kind, Image)}
        try:
            records = builder.as_data_source(getattr(self, split), decoders=pictures)
        except NotImplementedError:
            command = PREPARE.format(self.name, "ANOTHER_DIRECTORY") + ", for data.source.data_dir"
            raise ValueError(f"{builder.data_dir} needs TensorFlow to be read; {command}") from None
        rows = (_values(record, self.features, self.columns, self.name) for record in records)
        # The bytes of a data set are the text that it was given; those of pictures stay files.
        named = zip(self.features, self.columns or self.features, strict=True)
        texts = {name for name, column in named if column not in pictures}
        return (
            {name: _as_text(v) if isinstance(v, bytes) and name in texts else v for name, v in row.items()}
            for row in rows
        )

    def fingerprint(self, split: str) -> str:
        parts = self._builder(split).info.splits[getattr(self, split)].file_instructions
        facts = ([(part.skip, part.take) for part in parts], self.features, self.columns)
        return digest_files([Path(part.filename) for part in parts], facts)

    def _builder(self, split: str) -> Any:
        """The reader of the prepared set, checked to have the split."""
        from tensorflow_datasets.core.read_only_builder import builder_from_files
        from tensorflow_datasets.core.registered import DatasetNotFoundError

        check_split(self, split)
        _check_columns(self)
        data_dir = os.path.expanduser(self.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
        try:
            builder = builder_from_files(self.name, data_dir=data_dir)
        except DatasetNotFoundError:
            command = PREPARE.format(self.name, data_dir)
            raise FileNotFoundError(f"{self.name} is not prepared in {data_dir}; {command}") from None
        except ValueError as error:
            raise ValueError(f"{self.name} cannot be read from {data_dir}: {str(error).splitlines()[0]}") from error
        try:
            builder.info.splits[getattr(self, split)]
        except (KeyError, ValueError):
            known = ", ".join(builder.info.splits)
            raise ValueError(f"{self.name} has {known}, not {getattr(self, split)!r} (data.source.{split})") from None
        return builder


def _check_columns(source: Files | Tfds) -> None:
    if source.columns and len(source.columns) != len(source.features):
        raise ValueError(f"data.source.columns {source.columns} are not one for each of {source.features}")


def check_split(source: Source, split: str) -> None:
    """Raises ValueError for a split that the source does not have."""
    if split not in SPLITS:
        raise ValueError(f"splits are {', '.join(SPLITS)}, not {split!r}")
    if split not in source.splits:
        known = ", ".join(source.splits) or "none"
        raise ValueError(f"there are no {split} examples, only {known}; set data.source.{split}")


def digest_files(paths: list[Path], facts: tuple[Any, ...]) -> str:
    """A hash of the content of files and of some facts."""
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=12)
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    return digest.hexdigest()


def _values(record: Any, features: tuple[str, ...], columns: tuple[str, ...], place: str) -> Example:
    """The values of a record; the name of a nested column has a dot, as has an item of a list (`summaries.0`)."""
    example = {}
    for feature, column in zip(features, columns or features, strict=True):
        value = record
        for key in column.split("."):
            if isinstance(value, list) and key.isdecimal():
                value = dict(enumerate(value)).get(int(key), "")  # an example that lacks it is empty
            elif isinstance(value, dict) and key in value:
                value = value[key]
            else:
                raise ValueError(f"{place} has no {column!r}; set data.source.columns to what it has")
        of_text = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if isinstance(value, list | dict) and not of_text:
            kind = type(value).__name__
            raise ValueError(f"{column!r} of {place} is {kind}, neither text, texts nor a number")
        example[feature] = value
    return example


def _as_text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return "" if value is None else str(value)


def _aligned(paths: list[Path], features: tuple[str, ...]) -> Iterator[Example]:
    for row in itertools.zip_longest(*map(file_lines, paths)):
        if None in row:
            counts = ", ".join(f"{path} has {sum(1 for _ in file_lines(path)):,}" for path in paths)
            raise ValueError(f"files of one split need as many lines as each other, but {counts}")
        yield dict(zip(features, row, strict=True))


def _tsv(path: Path, features: tuple[str, ...], columns: tuple[str, ...]) -> Iterator[Example]:
    if not all(column.isdecimal() for column in columns):
        raise ValueError(f"data.source.columns of a .tsv file are numbers from 0, not {', '.join(columns)}")
    places = [int(column) for column in columns] or list(range(len(features)))
    width = 0
    for number, line in enumerate(file_lines(path), 1):
        if not line:
            yield dict.fromkeys(features, "")
            continue
        cells = line.split("\t")
        width = width or max(len(cells), max(places) + 1)
        if len(cells) != width:
            raise ValueError(f"{path} line {number} has {len(cells)} columns, not {width}")
        yield {feature: cells[place] for feature, place in zip(features, places, strict=True)}


def _csv(path: Path, features: tuple[str, ...], columns: tuple[str, ...]) -> Iterator[Example]:
    # The limit of Python's reader holds for the whole process: raised once and not put back, it is the same for all.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
    lines = (f"{line}\n" for line in file_lines(path))  # a text in quotes may hold line breaks
    rows = csv.reader(lines)
    try:
        header = next(rows, [])
        if missing := [column for column in columns or features if column not in header]:
            raise ValueError(f"{path} has no column {missing[0]!r}, only {', '.join(header)}; set data.source.columns")
        places = [header.index(column) for column in columns or features]
        first = rows.line_num + 1
        for row in rows:
            if inspect.getgeneratorstate(lines) == inspect.GEN_CLOSED:  # the reader asked for more than the last line
                raise ValueError(f"{path} line {first} opens a quotation mark that nothing closes")
            if row and len(row) != len(header):
                raise ValueError(f"{path} line {rows.line_num} has {len(row)} columns, not {len(header)}")
            yield {feature: row[place] if row else "" for feature, place in zip(features, places, strict=True)}
            first = rows.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path} line {rows.line_num} is not CSV: {error}") from error


def _jsonl(path: Path, features: tuple[str, ...], columns: tuple[str, ...]) -> Iterator[Example]:
    for number, line in enumerate(file_lines(path), 1):
        if not line:
            yield dict.fromkeys(features, "")
            continue
        where = f"{path} line {number}"
        yield _values(parsed(line, where), features, columns, where)


def _parquet(path: Path, features: tuple[str, ...], columns: tuple[str, ...]) -> Iterator[Example]:
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            parts = {"batch_size": PARQUET_ROWS, "columns": list(columns or features)}
            # Group by group: a reader of all of them keeps more of the file in memory.
            groups = (file.iter_batches(row_groups=[group], **parts) for group in range(file.num_row_groups))
            records = (record for batches in groups for batch in batches for record in batch.to_pylist())
            for number, record in enumerate(records, 1):
                yield _values(record, features, columns, f"{path} row {number}")
    except (ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a parquet file, or damaged: {' '.join(str(error).split())}") from error


Reader = Callable[[Path, tuple[str, ...], tuple[str, ...]], Iterator[Example]]
TABLES: dict[str, Reader] = {".csv": _csv, ".tsv": _tsv, ".jsonl": _jsonl, ".parquet": _parquet}


def _table(path: Path) -> Reader | None:
    """How a file is read if it is a table, by its name."""
    return TABLES.get((path.with_suffix("") if path.suffix in (".gz", ".xz") else path).suffix)
