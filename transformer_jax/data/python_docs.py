"""The documentation that comes with every CPython: English and code, with no download."""

import ast
import functools
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Gt, Lt

from transformer_jax.data.fields import check_ranges
from transformer_jax.data.sources import Example, Source, check_split, digest_files, split_of

TOPICS = "topics"
"""The label of the language reference."""
LEFT_OUT = {"idlelib", "lib2to3", "pydoc_data", "site-packages", "dist-packages", "test", "turtledemo"}
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


@functools.cache
def _documents() -> tuple[tuple[str, str], ...]:
    """All documents and their labels, in the order of names of topics and files."""
    from pydoc_data.topics import topics

    labels = {text.strip(): TOPICS for _, text in sorted(topics.items())}
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if LEFT_OUT.isdisjoint(parts):
            for text in _docstrings(path):
                labels.setdefault(text, parts[0].removesuffix(".py"))
    return tuple(labels.items())


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
