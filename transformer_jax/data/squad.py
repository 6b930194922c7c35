"""Questions on texts in the JSON format of SQuAD (Rajpurkar et al. 2016)."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

from transformer_jax.data.lines import file_lines
from transformer_jax.data.sources import SPLITS, Example, Source, digest_files, split_files


@dataclass(frozen=True)
class Squad(Source):
    """SQuAD files, version 1.1: `question`, `context`, the first `answer`, and the character at which that `start`s."""

    directory: str = "."
    """Where the files are."""
    train: tuple[str, ...] = ()
    """Files to learn from."""
    validation: tuple[str, ...] = ()
    """Files for validation."""
    test: tuple[str, ...] = ()
    """Files for the final score."""
    holdout: float = 0.0
    """Share of the articles of the training files that is for validation, where that has no files."""

    @property
    def splits(self) -> tuple[str, ...]:
        """What has files or is held out."""
        held_out = "validation" if self.train and self.holdout else ""
        return tuple(split for split in SPLITS if getattr(self, split) or split == held_out)

    def examples(self, split: str) -> Iterator[Example]:
        """The questions of a split; ValueError for a file that is not as described or an answer that is not there."""
        held = bool(self.holdout) and not self.validation and split in ("train", "validation")
        for path in split_files(self, split):
            try:
                articles = json.loads("\n".join(file_lines(path)))["data"]
                for article in articles:
                    if held and self._held_out(article["title"]) != (split == "validation"):
                        continue
                    for paragraph in article["paragraphs"]:
                        for question in paragraph["qas"]:
                            yield _example(paragraph["context"], question)
            except (KeyError, TypeError, IndexError, json.JSONDecodeError) as error:
                raise ValueError(f"{path} is not a file of SQuAD 1.1: {type(error).__name__} {error}") from error

    def fingerprint(self, split: str) -> str:
        """A hash of the files and of the split; not of the directory's name."""
        return digest_files(split_files(self, split), (split, self.holdout))

    def _held_out(self, title: str) -> bool:
        place = int.from_bytes(hashlib.blake2b(title.encode(), digest_size=8).digest(), "big") / 2**64
        return place < self.holdout


def _example(context: str, question: dict) -> Example:
    answer = question["answers"][0]
    return {
        "question": question["question"],
        "context": context,
        "answer": answer["text"],
        "start": str(answer["answer_start"]),
    }
