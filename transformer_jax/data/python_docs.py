"""The documentation that comes with every CPython, and with what this package needs: English, with no download."""

import ast
import functools
import itertools
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from annotated_types import Gt, Lt

from transformer_jax.data.fields import check_ranges
from transformer_jax.data.sources import Example, Source, check_split, digest_files, split_of

TOPICS = "topics"
"""The label of the language reference."""
LEFT_OUT = {"idlelib", "lib2to3", "pydoc_data", "site-packages", "dist-packages", "test", "turtledemo"}
DEPENDENCIES = ("flax", "grain", "jax", "matplotlib", "numpy", "optax", "orbax", "pyarrow", "rich", "scipy", "sklearn")
DEPENDENCIES += ("tensorflow_datasets",)
"""Packages that are installed with this one and document themselves."""
SHORTEST = 40
"""Docstrings of fewer characters say too little."""


@dataclass(frozen=True)
class PythonDocs(Source):
    """The Python language reference and the docstrings of the standard library, each once, of the Python that runs.

    `text` is the document, `label` the top-level module that it comes from, or topics for the reference. Splits depend
    on the text alone.
    """

    most_common: int = 0
    """Only documents with one of so many labels, those that most documents have; 0: all."""
    holdout: Annotated[float, Gt(0), Lt(0.5)] = 0.1
    """Share of the documents for validation, and as much for test."""

    def examples(self, split: str) -> Iterator[Example]:
        check_ranges(self, "data.source")
        check_split(self, split)
        documents = _documents()
        counts = Counter(label for _, label in documents)
        # Equally common labels in the order of their names, so that the choice is always the same.
        common = sorted(counts, key=lambda label: (-counts[label], label))[: self.most_common or None]
        for text, label in documents:
            if label in common and split_of(text, self.holdout) == split:
                yield {"text": text, "label": label}

    def fingerprint(self, split: str) -> str:
        return digest_files([], (sys.version, split, self.most_common, self.holdout))


@dataclass(frozen=True)
class DocstringSummaries(Source):
    """Docstrings of the standard library and of packages: `target` is the first line, `source` what stands below it.

    First lines differ from each other, and decide by their text alone which split they are in. What there is depends on
    the versions that are installed.
    """

    packages: tuple[str, ...] = DEPENDENCIES
    """Importable names of the packages."""
    holdout: Annotated[float, Gt(0), Lt(0.5)] = 0.08
    """Share of the docstrings for validation, and as much for test."""

    def examples(self, split: str) -> Iterator[Example]:
        """The examples of a split; ValueError for a package that is not installed."""
        check_ranges(self, "data.source")
        check_split(self, split)
        for target, source in _summarised(self.packages):
            if split_of(target, self.holdout) == split:
                yield {"source": source, "target": target}


@functools.cache
def _summarised(packages: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """First lines of some words, and what stands below them, in the order of packages and files."""
    places = [Path(sysconfig.get_path("stdlib"))]
    for name in packages:
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"data.source.packages: there is no package {name} in this Python; leave it out")
        places += map(Path, spec.submodule_search_locations)
    found: dict[str, str] = {}
    modules = itertools.chain.from_iterable(_modules(place, LEFT_OUT | {"tests"}) for place in places)
    for text in itertools.chain.from_iterable(map(_docstrings, modules)):
        line, _, rest = text.partition("\n\n")
        if "\n" not in line and len(line.split()) > 2 and len(rest.strip()) >= 2 * SHORTEST:
            found.setdefault(line, rest.strip())
    return tuple(found.items())


@functools.cache
def _documents() -> tuple[tuple[str, str], ...]:
    """All documents and their labels, in the order of names of topics and files."""
    from pydoc_data.topics import topics

    labels = {text.strip(): TOPICS for _, text in sorted(topics.items())}
    library = Path(sysconfig.get_path("stdlib"))
    for path in _modules(library, LEFT_OUT):
        for text in _docstrings(path):
            labels.setdefault(text, path.relative_to(library).parts[0].removesuffix(".py"))
    return tuple(labels.items())


def _modules(directory: Path, left_out: Set[str]) -> list[Path]:
    """The files of a library but those in directories of these names."""
    return [path for path in sorted(directory.rglob("*.py")) if left_out.isdisjoint(path.relative_to(directory).parts)]


def _docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a module, its classes and its functions; none if it cannot be read."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = (ast.get_docstring(node) or "").strip()
            if len(text) >= SHORTEST:
                yield text
