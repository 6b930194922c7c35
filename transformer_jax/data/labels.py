"""A vocabulary of labels: every text is one of a few whole strings."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transformer_jax.data.lines import existing
from transformer_jax.data.nearest import did_you_mean
from transformer_jax.data.tokenizers import Offsets, TokenizerConfig, known_ids, write_whole


@dataclass(frozen=True)
class Labels(TokenizerConfig):
    """The labels of a classification: those of the train split, sorted as text."""

    many: bool = False
    """A text is several labels with white space between them, such as the tags of its words."""

    def train(self, texts: Iterable[str]) -> "LabelTokenizer":
        """The labels of the texts; ValueError where there are none."""
        found = (label for text in texts for label in (text.split() if self.many else [text.strip()]))
        names = tuple(sorted(set(found)))
        if not names:
            raise ValueError("there are no labels to learn; check data.source")
        return LabelTokenizer(names, many=self.many)

    def load(self, directory: Path, name: str) -> "LabelTokenizer":
        """What `save` wrote."""
        path = existing(directory / f"{name}.json", "the labels of the run")
        try:
            return LabelTokenizer(tuple(json.loads(path.read_bytes())["labels"]), many=self.many)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path.absolute()}, the labels of the run, is not what was saved") from error


class LabelTokenizer:
    """One id for each label, of `many` in a text or one. There are no special tokens: their ids are -1."""

    pad_id, unk_id, bos_id, eos_id = -1, -1, -1, -1
    mask_id: int | None = None

    def __init__(self, names: tuple[str, ...], *, many: bool = False):
        self.names = names
        self.many = many
        self.vocab_size = len(names)
        self._ids = {name: place for place, name in enumerate(names)}
        self._content = json.dumps({"labels": names}).encode()
        self.fingerprint = hashlib.blake2b(self._content, digest_size=12).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The id of a label; ValueError for one that there is not."""
        labels = text.split() if self.many else [text.strip()]
        for label in labels:
            if label not in self._ids:
                near = did_you_mean(label, self.names)
                raise ValueError(f"there is no label {label!r} among the {self.vocab_size}{near}")
        return [self._ids[label] for label in labels]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of many labels."""
        return [self.encode(text) for text in texts]

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """The ids of labels and where each stands."""
        spans = [match.span() for match in re.finditer(r"\S+", text)] if self.many else [(0, len(text))]
        return self.encode(text), spans

    def decode(self, ids: Iterable[int]) -> str:
        """The label of an id; ValueError for an id outside of the vocabulary, or for another number of them."""
        known = known_ids(ids, self.vocab_size)
        if len(known) != 1:
            raise ValueError(f"a label is one id, not {len(known)}")
        return self.names[known[0]]

    def piece(self, token_id: int) -> str:
        """The label of an id."""
        return self.decode([token_id])

    def starts_word(self, token_id: int) -> bool:
        """Every label is a word."""
        return True

    def save(self, directory: Path, name: str) -> None:
        """Writes `<name>.json`."""
        write_whole(directory / f"{name}.json", self._content)
