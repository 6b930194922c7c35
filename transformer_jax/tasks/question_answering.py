"""Extractive question answering: where in a text the answer stands (Devlin et al. 2019, section 4.2)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from annotated_types import Ge
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.config import DataConfig
from transformer_jax.data.examples import Kind
from transformer_jax.data.sources import Example
from transformer_jax.data.vocabulary import VocabularyConfig
from transformer_jax.models.encoder_only import EncoderOnly, EncoderOnlyConfig
from transformer_jax.tasks.answerer import Answerer, Window, span_logits, windows
from transformer_jax.tasks.scores import squad_scores
from transformer_jax.tasks.task import Sums, Task, Tokenizers, resolved


@dataclass(frozen=True)
class QuestionAnswering(Task):
    """Learns the first and the last token of `answer`, which begins at the character `start` of `context`.

    What is longer than data.max_length is read in windows that overlap; where a window lacks the answer, the start
    token stands for it.
    """

    features: ClassVar[tuple[str, ...]] = ("question", "context", "answer", "start")

    stride: Annotated[int, Ge(0)] = 64
    """Tokens of the context that a window has of the one before."""
    max_answer: Annotated[int, Ge(1)] = 30
    """Tokens of an answer at most."""

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """Texts, and the number of a character."""
        return {**super().kinds, "start": "number"}

    @property
    def columns(self) -> Columns:
        """The tokens of a window, where its context begins, and the places of the answer's first and last token."""
        return {
            "tokens": Column(),
            "first": Column(varying=False),
            "span": Column(item_shape=(2,), varying=False),
        }

    def vocabularies(self, data: DataConfig) -> dict[str, VocabularyConfig]:
        """That of question and context."""
        return {"question": data.tokenizer, "context": data.tokenizer}

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """A row for every window of every example; ValueError for an answer that is not where it is said to be."""
        columns: dict[str, list[Any]] = {name: [] for name in self.columns}
        for example in examples:
            context, answer, start = example["context"], example["answer"], int(example["start"])
            end = start + len(answer)
            if context[start:end] != answer:
                raise ValueError(f"the answer {answer[:40]!r} is not at character {start} of its context")
            for window in windows(tokenizers["context"], example["question"], context, max_length, self.stride):
                inside = [place for place, (begin, stop) in window.offsets.items() if begin < end and start < stop]
                whole = bool(inside) and _covered(window, inside, start, end)
                columns["tokens"].append(window.tokens)
                columns["first"].append(window.first)
                columns["span"].append([inside[0], inside[-1]] if whole else [0, 0])
        return columns

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderOnlyConfig:
        """The model with its sizes; ValueError where data, task and model contradict each other."""
        if self.stride >= data.max_length:
            raise ValueError(f"task.stride {self.stride} is not below data.max_length {data.max_length}; lower it")
        return resolved(self, model, EncoderOnlyConfig, data, vocab_sizes["context"], head="tokens", num_outputs=2)

    def loss(self, model: EncoderOnly, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """`loss`: the mean of the cross-entropies of the first and the last token, over the tokens of the window."""
        lengths = batch["tokens_length"]
        logits = span_logits(model, batch["tokens"], lengths, batch["first"], key=key)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits, axis=1), batch["span"][:, None], axis=1)
        weights = (lengths > 0).astype(jnp.float32)
        losses = jnp.where(lengths > 0, -jnp.mean(chosen[:, 0], axis=-1), 0)
        return {"loss": (jnp.sum(losses), jnp.sum(weights))}

    def predictor(self, model: EncoderOnly, tokenizers: Tokenizers, data: DataConfig) -> Answerer:
        """The model with `answer` and `answers`."""
        return Answerer(
            model, tokenizers["context"], max_length=data.max_length, stride=self.stride, max_answer=self.max_answer
        )

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        """Those of SQuAD."""
        return {"exact_match": "higher", "f1": "higher"}

    def evaluate(self, predictor: Answerer, examples: Sequence[Example]) -> dict[str, Any]:
        """Exact match and F1 of SQuAD, in percent, with the best of the right answers."""
        found = predictor.answer([(example["question"], example["context"]) for example in examples])
        return {"examples": len(examples)} | squad_scores(found, list(map(_right, examples)))

    def samples(self, predictor: Answerer, examples: Sequence[Example]) -> list[str]:
        """Questions and what is found."""
        found = predictor.answer([(example["question"], example["context"]) for example in examples])
        lines = []
        for example, answer in zip(examples, found, strict=True):
            wrong = "" if answer in _right(example) else f"  (not {example['answer']})"
            lines += [example["question"], f"  -> {answer}{wrong}"]
        return lines


def _right(example: Example) -> list[str]:
    """The right answers: the `answers`, written as JSON, of examples that have several, or the one."""
    return json.loads(example["answers"]) if "answers" in example else [example["answer"]]


def _covered(window: Window, inside: Sequence[int], start: int, end: int) -> bool:
    """Whether these tokens are all of the characters from `start` to `end` that any token stands for.

    A vocabulary may drop accents and white space at the ends of an answer; at the ends of a window there may be more.
    """
    places = list(window.offsets)
    first, last = inside[0], inside[-1]
    begins = window.offsets[first][0] <= start or first != places[0]
    return begins and (end <= window.offsets[last][1] or last != places[-1])
