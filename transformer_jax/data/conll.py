"""Tagged words in the column formats of the CoNLL shared tasks."""

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformer_jax.data.lines import file_lines
from transformer_jax.data.sources import Example, SplitFiles

TAG = re.compile("O|[BIESULM](-.*)?")
"""Tags of entities."""
NO_WORD = re.compile(r"\d+[-.]\d+")
"""The first column of CoNLL-U in a line for several words that follow, or for one that is not written."""


@dataclass(frozen=True)
class Conll(SplitFiles):
    """A word and its tag on every line, in columns between tabs or spaces; a line without a word ends a sentence.

    `text` is the words and `tags` their tags, each with spaces between them. Comments, which begin with a hash sign in
    front of a sentence, and `-DOCSTART-` are left out. A word may be or begin with a hash sign: it has a tag.
    """

    tag_column: int = -1
    """Column of the tag, from 0; negative: from the last."""
    word_column: int = 0
    """Column of the word; 1 in CoNLL-U and others whose first column numbers the words."""

    def examples(self, split: str) -> Iterator[Example]:
        """The sentences of a split; ValueError or FileNotFoundError for files that are not as described."""
        for path in self.files(split):
            for is_word, group in itertools.groupby(self._words(path), lambda pair: bool(pair[0])):
                if is_word:
                    words, tags = zip(*group, strict=True)
                    yield {"text": " ".join(words), "tags": " ".join(tags)}

    def fingerprint(self, split: str) -> str:
        return self.digest(split, self.tag_column, *filter(None, [self.word_column]))

    def _words(self, path: Path) -> Iterator[tuple[str, str]]:
        """The words of a file with their tags, and a pair of empty texts between sentences."""
        lines = [line.strip(" \t") for line in file_lines(path)]
        plain = [line for line in lines if line and not line.startswith(("#", "-DOCSTART-"))]
        # If every line has as many tabs, only they separate columns, which may hold spaces or be empty.
        tabs = {line.count("\t") for line in plain}
        separator = re.compile("\t" if len(tabs) == 1 and tabs != {0} else "[ \t]+")
        width = len(separator.split(plain[0])) if plain else 2
        if plain and (width < 2 or not all(-width <= i < width for i in (self.tag_column, self.word_column))):
            raise ValueError(
                f"{path} has {width} columns, as in {plain[0]!r}, and not the word in data.source.word_column "
                f"{self.word_column} with its tag in data.source.tag_column {self.tag_column}"
            )
        known = {columns[self.tag_column] for columns in map(separator.split, plain) if len(columns) == width}
        between = True
        for number, line in enumerate(lines, 1):
            columns = separator.split(line)
            if not line or line.startswith("-DOCSTART-"):
                between = True
                yield "", ""
            elif between and line.startswith("#") and not self._tagged(line, columns, width, known):
                continue
            elif len(columns) != width:
                raise ValueError(f"{path} line {number} has {len(columns)} columns, not {width}: {line!r}")
            else:
                between = False
                if not (self.word_column and NO_WORD.fullmatch(columns[0])):
                    # Words are what white space separates: one with white space inside stays one word.
                    word, tag = columns[self.word_column], columns[self.tag_column]
                    yield "_".join(word.split()) or "_", "_".join(tag.split()) or "_"

    def _tagged(self, line: str, columns: list[str], width: int, known: set[str]) -> bool:
        """Whether a line that begins with a hash sign is a word and its tag, and no comment."""
        if len(columns) != width:
            return False
        tag = columns[self.tag_column]
        return tag in known or bool(TAG.fullmatch(tag)) or ("\t" in line and " " not in columns[0])
