"""Files of pictures or recordings: by their folders, by their names, or in a table."""

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformer_jax.data.examples import LARGEST_FILE, digest
from transformer_jax.data.lines import existing, file_lines
from transformer_jax.data.sources import Example, Files, HeldOut, check_split


def file_bytes(path: Path, kind: str) -> bytes:
    """The content of a picture's or recording's file; OSError, or ValueError for a pipe, a device or what is huge."""
    if path.exists() and not path.is_file():  # it may never end
        raise ValueError(f"no {kind}: {path} is not a regular file")
    if (size := path.stat().st_size) > LARGEST_FILE:
        raise ValueError(f"no {kind}: {path} has {size:,} bytes, more than {LARGEST_FILE:,}")
    return path.read_bytes()


@dataclass(frozen=True)
class ClassFolders(HeldOut):
    """Files whose labels are in their names, by default as the folder; others than `suffixes` are passed over.

    What a split names is a folder of class folders (`.` for the directory itself), a pattern of names such as
    `*/*_2.wav`, or a .txt file with the name of a file in every line. What `test` names is in no other split, and what
    `validation` names is not learnt from.
    """

    held_out: ClassVar[tuple[str, ...]] = ("validation", "test")
    feature: ClassVar[str]
    """What a file is called in an example."""
    suffixes: ClassVar[tuple[str, ...]]
    """Endings of the files' names, in lower case."""

    train: tuple[str, ...] = ("train",)
    """Folders, patterns or lists of files to learn from."""
    label: str = ""
    """A regular expression whose first group, in a file's name with its folders, is the label; empty: its folder."""

    def files(self, split: str) -> list[Path]:
        """The files of a split in the order of their names; ValueError for none, of a class too."""
        check_split(self, split)
        belongs, directory = self.belongs(split), self.place()
        first = {"train": ("validation", "test"), "validation": ("test",), "test": ()}[split]
        taken = {path for other in first for path in self._named(directory, getattr(self, other))}
        paths = self._named(directory, getattr(self, split) or self.train)
        self._check_classes(directory, getattr(self, split) or self.train, {path.parent for path in paths})
        if files := [path for path in paths if path not in taken and belongs(path.relative_to(directory).as_posix())]:
            return files
        names = ", ".join(getattr(self, split) or self.train)
        do = "use --data.source.train ." if self._named(directory, (".",)) else "set data.source"
        raise ValueError(f"no CLASS/NAME{{{','.join(self.suffixes)}}} for {names} in {directory}; {do}")

    def _check_classes(self, directory: Path, names: tuple[str, ...], used: set[Path]) -> None:
        """ValueError for a folder of a class that has none of the files, which would vanish without a word."""
        splits = {directory / name for name in (*self.train, *self.validation, *self.test)}
        places = [place for name in names if not self.label and (place := directory / name).is_dir()]
        folders = {Path(found) for place in places for found in glob.glob(f"{glob.escape(str(place))}/*/")}
        if empty := sorted(folders - used - splits):
            raise ValueError(
                f"the class folder {empty[0]} has no file that ends with one of {', '.join(self.suffixes)}; fill it, "
                f"remove it, or name the files of other folders by a pattern such as {names[0]}/[!_]*/*"
            )

    def _named(self, directory: Path, names: tuple[str, ...]) -> list[Path]:
        """The files that are meant by these names."""
        paths: list[Path] = []
        for name in names:
            place = directory / name
            if place.suffix == ".txt":
                paths += [directory / os.path.normpath(line) for line in file_lines(existing(place))]
            else:
                pattern = f"{glob.escape(name)}/*/*" if place.is_dir() else name
                paths += sorted(directory / found for found in glob.glob(pattern, root_dir=directory))
        if outside := [path for path in paths if not path.is_relative_to(directory) or ".." in path.parts]:
            raise ValueError(f"{outside[0]} is not in data.source.directory {directory}")
        return [path for path in dict.fromkeys(paths) if path.suffix.lower() in self.suffixes]

    def examples(self, split: str) -> Iterator[Example]:
        """The files and their labels; ValueError for a file without a label."""
        return ({self.feature: path, "label": self._label(path)} for path in self.files(split))

    def _label(self, path: Path) -> str:
        if not self.label:
            return path.parent.name
        name = path.relative_to(Path(self.directory).expanduser().absolute()).as_posix()
        found = re.search(self.label, name)
        if found is None or not found.groups():
            raise ValueError(f"data.source.label {self.label!r} finds no group in {name}")
        return found[1]


@dataclass(frozen=True)
class FileTable(Files):
    """Tables whose first feature names a file, relative to `directory` or absolute.

    Files that are missing are counted and skipped.
    """

    def examples(self, split: str) -> Iterator[Example]:
        name, directory = self.features[0], self.place()
        for row in super().examples(split):
            yield {**row, name: directory / row[name] if isinstance(row[name], str) else row[name]}

    def fingerprint(self, split: str) -> str:
        return digest(self.examples(split))
