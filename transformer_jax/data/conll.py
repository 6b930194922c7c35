"""Tagged words in the column format of the CoNLL shared tasks."""

from collections.abc import Iterator
from dataclasses import dataclass

from transformer_jax.data.lines import file_lines
from transformer_jax.data.sources import SPLITS, Example, Source, digest_files, split_files


@dataclass(frozen=True)
class Conll(Source):
    """A word and its tag on every line, in columns; a line without a word ends a sentence.

    `text` is the words and `tags` their tags, each with spaces between them.
    """

    directory: str = "."
    """Where the files are."""
    train: tuple[str, ...] = ()
    """Files to learn from; .gz and .xz are unpacked."""
    validation: tuple[str, ...] = ()
    """Files for validation."""
    test: tuple[str, ...] = ()
    """Files for the final score."""
    tag_column: int = -1
    """Column of the tag; the word is in the first."""

    @property
    def splits(self) -> tuple[str, ...]:
        """What has files."""
        return tuple(split for split in SPLITS if getattr(self, split))

    def examples(self, split: str) -> Iterator[Example]:
        """The sentences of a split; ValueError or FileNotFoundError where the files are not as described."""
        for path in split_files(self, split):
            words: list[str] = []
            tags: list[str] = []
            for number, line in enumerate(file_lines(path), 1):
                columns = line.split()
                if columns and not columns[0].startswith("-DOCSTART-"):
                    if len(columns) < 2:
                        raise ValueError(f"{path} line {number} has a word and no tag: {line!r}")
                    words.append(columns[0])
                    tags.append(columns[self.tag_column])
                elif words:
                    yield {"text": " ".join(words), "tags": " ".join(tags)}
                    words, tags = [], []
            if words:
                yield {"text": " ".join(words), "tags": " ".join(tags)}

    def fingerprint(self, split: str) -> str:
        """A hash of the files and of the column; not of the directory's name."""
        return digest_files(split_files(self, split), (self.tag_column,))
