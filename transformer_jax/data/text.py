"""Running text from files."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from transformer_jax.data.lines import file_lines
from transformer_jax.data.sources import Example, HeldOut

LINES = 10_000
"""Lines that are read at once."""


@dataclass(frozen=True)
class Text(HeldOut):
    """Running text: every file is a document, or its parts between separators are. Lines end in a newline alone.

    Held out are some documents or, if files are documents, the characters at the end of each.
    """

    separator: str = ""
    """Text between documents, such as two newlines; empty: every file is one document."""

    def examples(self, split: str) -> Iterator[Example]:
        """The documents of a split as `text`; ValueError or FileNotFoundError if there are none."""
        belongs = self.belongs(split)
        for path in self.files(split):
            if self.separator:
                yield from ({"text": part} for part in _parts(file_lines(path), self.separator) if belongs(part))
                continue
            text = "\n".join(file_lines(path))
            if self.holds_out(split):
                cut = int(len(text) * (1 - self.holdout))
                text = text[:cut] if split == "train" else text[cut:]
            yield {"text": text}

    def fingerprint(self, split: str) -> str:
        return self.digest(split, split if self.holds_out(split) else "", self.separator, self.holdout)


def _parts(lines: Iterator[str], separator: str) -> Iterator[str]:
    """The texts between separators, read some lines at a time."""
    rest = ""
    while block := list(itertools.islice(lines, LINES)):
        *whole, rest = (rest + "\n".join(block) + "\n").split(separator)
        yield from whole
    yield rest.removesuffix("\n")
