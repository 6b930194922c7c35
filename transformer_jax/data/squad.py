"""Questions on texts in the JSON format of SQuAD (Rajpurkar et al. 2016; 2018)."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from transformer_jax.data.lines import file_lines, parsed
from transformer_jax.data.sources import Example, HeldOut

UNITS: dict[str, Callable[[str, int], int]] = {
    "characters": lambda text, start: start,
    "UTF-16 units": lambda text, start: _characters(text, start * 2, "utf-16-le"),
    "UTF-8 bytes": lambda text, start: _characters(text, start, "utf-8"),
}
"""From an `answer_start` in the units of some programs to the character at which the answer starts."""


@dataclass(frozen=True)
class Squad(HeldOut):
    """SQuAD files: `question`, `context`, the first `answer`, the character at which that `start`s, and all `answers`.

    Answers are written as JSON. A question without one (SQuAD 2.0) has an empty answer: such examples are counted as
    empty and skipped. Articles are held out whole.
    """

    def examples(self, split: str) -> Iterator[Example]:
        """The questions of a split; ValueError for another format or an answer that its context does not hold."""
        for path in self.files(split):
            try:
                articles = parsed("\n".join(file_lines(path)), str(path))["data"]
                character_of = _unit(path, articles)
                if self.holds_out(split):
                    articles = [article for article in articles if self.belongs(split)(article["title"])]
                yield from (_example(context, question, character_of) for context, question in _questions(articles))
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path} is not a SQuAD file: {type(error).__name__} {error}") from error

    def fingerprint(self, split: str) -> str:
        return self.digest(split, split, self.holdout)


def _questions(articles: list[dict]) -> Iterator[tuple[str, dict]]:
    """The contexts and questions."""
    for article in articles:
        for paragraph in article["paragraphs"]:
            yield from ((paragraph["context"], question) for question in paragraph["qas"])


def _answers(question: dict) -> list[dict]:
    """The right answers of a question, none if its context does not hold any."""
    answers = [] if question.get("is_impossible") else question["answers"]
    return [answer for answer in answers if answer["text"]]


def _unit(path: Path, articles: list[dict]) -> Callable[[str, int], int]:
    """The unit of the file's offsets, in which every first answer is at its own; ValueError if none fits."""
    first = [(context, answers[0]) for context, question in _questions(articles) if (answers := _answers(question))]
    missed: dict[str, list[str]] = {}
    for name, character_of in UNITS.items():
        missed[name] = [
            answer["text"]
            for context, answer in first
            if answer["answer_start"] < 0
            or not context.startswith(answer["text"], character_of(context, answer["answer_start"]))
        ]
        if not missed[name]:
            return character_of
    name = min(missed, key=lambda name: len(missed[name]))
    raise ValueError(
        f"{path}: {len(missed[name]):,} of {len(first):,} answers are not at their answer_start, counted in {name} "
        f"or otherwise, such as {missed[name][0][:40]!r}; correct or remove them"
    )


def _characters(text: str, start: int, encoding: str) -> int:
    """The number of characters in the first bytes of an encoded text."""
    return len(text.encode(encoding, "surrogatepass")[:start].decode(encoding, "ignore"))


def _example(context: str, question: dict, character_of: Callable[[str, int], int]) -> Example:
    answers = _answers(question)
    texts = [question["question"], context, *(answer["text"] for answer in answers)]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"a question, its context or its answer is no text: {question}")
    return {
        "question": question["question"],
        "context": context,
        "answer": answers[0]["text"] if answers else "",
        "start": str(character_of(context, answers[0]["answer_start"])) if answers else "",
        "answers": json.dumps(list(dict.fromkeys(texts[2:])), ensure_ascii=False),
    }
