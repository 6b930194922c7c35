"""A vocabulary of labels."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformer_jax.data.lines import existing, write_whole
from transformer_jax.data.nearest import did_you_mean

MOST_LISTED = 5
"""Labels that a message lists."""


@dataclass(frozen=True)
class Labels:
    """The labels of a classification, each with its number: those of the train split, sorted as text.

    `Labels()` has none yet; `train` and `load` give the labels with their names.
    """

    many: bool = False
    """A text is several labels with white space between them, such as the tags of its words."""
    names: tuple[str, ...] = ()
    """The label of every number."""

    def train(self, texts: Iterable[str]) -> "Labels":
        """The labels of the texts; ValueError if they have none or, where each has one, all the same."""
        if names := sorted({label for text in texts for label in self._parts(text)}):
            if len(names) == 1 and not self.many:
                raise ValueError(f"all examples to learn from have the same label, {names[0]!r}; nothing to tell apart")
            return Labels(self.many, tuple(names))
        raise ValueError("there are no labels to learn; check data.source")

    def load(self, directory: Path, name: str) -> "Labels":
        """Reads the labels that `save` wrote."""
        path = existing(directory / f"{name}.json", "the labels of the run")
        try:
            return Labels(self.many, tuple(json.loads(path.read_bytes())["labels"]))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path.absolute()}, the labels of the run, is not what was saved") from error

    def save(self, directory: Path, name: str) -> None:
        """Writes `<name>.json`."""
        write_whole(directory / f"{name}.json", self._content)

    @property
    def vocab_size(self) -> int:
        """How many labels there are."""
        return len(self.names)

    @property
    def fingerprint(self) -> str:
        """A hash of the names."""
        return hashlib.blake2b(self._content, digest_size=12).hexdigest()

    def ids(self, text: str) -> list[int]:
        """The numbers of the labels in a text (one, unless it has `many`); ValueError for an unknown label."""
        labels = self._parts(text)
        if unknown := [label for label in labels if label not in self._numbers]:
            near = did_you_mean(unknown[0], self.names)
            known = ", ".join(self.names[:MOST_LISTED]) + ", ..." * (self.vocab_size > MOST_LISTED)
            raise ValueError(
                f"there is no label {unknown[0]!r} among the {self.vocab_size} to learn from ({known}){near}; "
                "add examples of it to the train split, or leave it out of the others"
            )
        return [self._numbers[label] for label in labels]

    def id(self, label: str) -> int:
        """The number of one label; ValueError for an unknown one."""
        (number,) = self.ids(label)
        return number

    def _parts(self, text: str) -> list[str]:
        return text.split() if self.many else [text.strip()]

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    @property
    def _content(self) -> bytes:
        return json.dumps({"labels": self.names}).encode()
