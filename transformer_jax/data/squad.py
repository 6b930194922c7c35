"""Questions on texts in the JSON format of SQuAD (Rajpurkar et al. 2016)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from transformer_jax.data.lines import file_lines
from transformer_jax.data.sources import Example, HeldOut, digest_files, split_files


@dataclass(frozen=True)
class Squad(HeldOut):
    """SQuAD files, version 1.1: `question`, `context`, the first `answer`, and the character at which that `start`s.

    What is held out are whole articles.
    """

    def examples(self, split: str) -> Iterator[Example]:
        """The questions of a split; ValueError for a file that is not as described or an answer that is not there."""
        belongs = self.belongs(split)
        for path in split_files(self, split):
            try:
                articles = json.loads("\n".join(file_lines(path)))["data"]
                for article in articles:
                    if not belongs(article["title"]):
                        continue
                    for paragraph in article["paragraphs"]:
                        for question in paragraph["qas"]:
                            yield _example(paragraph["context"], question)
            except (KeyError, TypeError, IndexError, AttributeError, RecursionError, json.JSONDecodeError) as error:
                raise ValueError(f"{path} is not a file of SQuAD 1.1: {type(error).__name__} {error}") from error

    def fingerprint(self, split: str) -> str:
        """A hash of the files and of the split; not of the directory's name."""
        return digest_files(split_files(self, split), (split, self.holdout))


def _example(context: str, question: dict) -> Example:
    answer = question["answers"][0]
    texts = (question["question"], context, answer["text"])
    if not all(isinstance(text, str) for text in texts) or not isinstance(answer["answer_start"], int):
        raise TypeError(f"a question, its context or its answer is no text: {question}")
    return {
        "question": question["question"],
        "context": context,
        "answer": answer["text"],
        "start": str(answer["answer_start"]),
    }
