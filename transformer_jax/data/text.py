"""Running text from files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformer_jax.data.lines import file_lines
from transformer_jax.data.sources import SPLITS, Example, Source, digest_files, split_files


@dataclass(frozen=True)
class Text(Source):
    """Running text: every file is a document, or its parts between separators are. Lines end in a newline alone."""

    directory: str = "."
    """Where the files are."""
    train: tuple[str, ...] = ()
    """Files to learn from; .gz and .xz are unpacked."""
    validation: tuple[str, ...] = ()
    """Files for validation."""
    test: tuple[str, ...] = ()
    """Files for the final score."""
    separator: str = ""
    """What stands between documents, such as two newlines; empty: every file is one document."""
    holdout: float = 0.0
    """Share of the characters at the end of every training file that is for validation, where that has no files."""

    @property
    def splits(self) -> tuple[str, ...]:
        """What has files or is held out."""
        held_out = "validation" if self.train and self.holdout else ""
        return tuple(split for split in SPLITS if getattr(self, split) or split == held_out)

    def examples(self, split: str) -> Iterator[Example]:
        """The documents of a split as `text`; ValueError or FileNotFoundError where there are none."""
        for path in self._paths(split):
            text = "\n".join(file_lines(path))
            if self._held(split):
                cut = int(len(text) * (1 - self.holdout))
                text = text[:cut] if split == "train" else text[cut:]
            for part in text.split(self.separator) if self.separator else [text]:
                yield {"text": part}

    def fingerprint(self, split: str) -> str:
        """A hash of the files and of how they are cut; not of the directory's name."""
        facts = (split if self._held(split) else "", self.separator, self.holdout)
        return digest_files(self._paths(split), facts)

    def _held(self, split: str) -> bool:
        return bool(self.holdout) and split in ("train", "validation") and not self.validation

    def _paths(self, split: str) -> list[Path]:
        if not 0 <= self.holdout < 1:
            raise ValueError(f"data.source.holdout is a share below 1, not {self.holdout}")
        return split_files(self, split)
