"""Tagged words in the column format of the CoNLL shared tasks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from transformer_jax.data.lines import file_lines
from transformer_jax.data.sources import Example, SplitFiles, digest_files, split_files


@dataclass(frozen=True)
class Conll(SplitFiles):
    """A word and its tag on every line, in columns; a line without a word ends a sentence.

    `text` is the words and `tags` their tags, each with spaces between them.
    """

    tag_column: int = -1
    """Column of the tag; the word is in the first."""

    def examples(self, split: str) -> Iterator[Example]:
        """The sentences of a split; ValueError or FileNotFoundError where the files are not as described."""
        for path in split_files(self, split):
            words: list[str] = []
            tags: list[str] = []
            width = 0
            for number, line in enumerate(file_lines(path), 1):
                columns = re.split("[ \t]+", line.strip(" \t"))
                if columns[0] and not columns[0].startswith("-DOCSTART-"):
                    width = width or len(columns)
                    if len(columns) != width or not -width <= self.tag_column < width or width < 2:
                        wanted = f"{max(width, 2)} columns with the tag in data.source.tag_column {self.tag_column}"
                        raise ValueError(f"{path} line {number} needs {wanted}: {line!r}")
                    # Words are what white space separates: one with other white space inside stays one word.
                    words.append("_".join(columns[0].split()) or "_")
                    tags.append(columns[self.tag_column])
                elif words:
                    yield {"text": " ".join(words), "tags": " ".join(tags)}
                    words, tags = [], []
            if words:
                yield {"text": " ".join(words), "tags": " ".join(tags)}

    def fingerprint(self, split: str) -> str:
        """A hash of the files and of the column; not of the directory's name."""
        return digest_files(split_files(self, split), (self.tag_column,))
