"""Extractive question answering: where in a text the answer stands (Devlin et al. 2019, section 4.2)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jaxtyping import Array, Float, PRNGKeyArray

from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.config import DataConfig
from transformer_jax.data.examples import Kind
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.data.vocabulary import VocabularyConfig
from transformer_jax.models.encoder_only import EncoderOnly, EncoderOnlyConfig
from transformer_jax.nn.mask import MASKED
from transformer_jax.tasks.predictor import Predictor
from transformer_jax.tasks.scores import squad_scores
from transformer_jax.tasks.sequences import Tokens, token_types
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
        return {**super().kinds, "start": "number"}

    @property
    def columns(self) -> Columns:
        """The tokens of a window, where its context begins, and the places of the answer's first and last token.

        `offsets` has the characters for which the context's tokens stand.
        """
        span, offsets = Column(item_shape=(2,), varying=False), Column(item_shape=(2,), batched=False)
        return {"tokens": Column(), "first": Column(varying=False), "span": span, "offsets": offsets}

    def vocabularies(self, data: DataConfig) -> dict[str, VocabularyConfig]:
        return {"question": data.tokenizer, "context": data.tokenizer}

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """A row for every window of every example; ValueError for an answer that is not where it is said to be."""
        columns: dict[str, list[Any]] = {name: [] for name in ("example", *self.columns)}
        for number, example in enumerate(examples):
            context, answer, start = example["context"], example["answer"], int(example["start"])
            end = start + len(answer)
            if context[start:end] != answer:
                raise ValueError(f"the answer {answer[:40]!r} is not at character {start} of its context")
            for window in windows(tokenizers["context"], example["question"], context, max_length, self.stride):
                places = enumerate(window.offsets, window.first)
                inside = [place for place, (begin, stop) in places if begin < end and start < stop]
                whole = bool(inside) and _covered(window, inside, start, end)
                columns["example"].append(number)
                columns["tokens"].append(window.tokens)
                columns["first"].append(window.first)
                columns["offsets"].append(window.offsets)
                columns["span"].append([inside[0], inside[-1]] if whole else [0, 0])
        return columns

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderOnlyConfig:
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

    def predictor(self, model: EncoderOnly, tokenizers: Tokenizers, data: DataConfig) -> "Answerer":
        """The model with `answer` and `answers`."""
        settings = {"max_length": data.max_length, "stride": self.stride, "max_answer": self.max_answer}
        return Answerer(model, tokenizers["context"], **settings)

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        return {"loss": "lower", "exact_match": "higher", "f1": "higher"}

    def evaluate(self, predictor: "Answerer", examples: EncodedExamples) -> dict[str, Any]:
        """Exact match and F1 of SQuAD, in percent, with the best of the right answers."""
        columns = zip(*map(examples.column, ("tokens", "first", "offsets")), strict=True)
        rows = [Window(tokens, int(first), offsets.tolist()) for tokens, first, offsets in columns]
        answers = predictor.answers_in(rows, examples.of_rows, [example["context"] for example in examples])
        scores = squad_scores([answer.text for answer in answers], list(map(_right, examples)))
        return {"examples": len(examples)} | scores

    def samples(self, predictor: "Answerer", examples: Sequence[Example]) -> list[str]:
        answers = predictor.answer([(example["question"], example["context"]) for example in examples])
        lines = []
        for example, answer in zip(examples, answers, strict=True):
            wrong = "" if answer in _right(example) else f"  (not {example['answer']})"
            lines += [example["question"], f"  -> {answer}{wrong}"]
        return lines


def _right(example: Example) -> list[str]:
    """The right answers: the `answers`, written as JSON, of examples that have several, or the one."""
    return json.loads(example["answers"]) if "answers" in example else [example["answer"]]


class Window(NamedTuple):
    """A question with as much of its context as the model can read."""

    tokens: Tokens
    first: int
    """The place of the context's first token."""
    offsets: Sequence[Sequence[int]]
    """For every token of the context: the first character that it stands for, and the one behind."""


class Answer(NamedTuple):
    """A part of a context."""

    text: str
    start: int
    """The characters of the context before it."""
    score: float
    """Sum of the logits of its first and last token; higher is better."""


@dataclass(eq=False, repr=False)
class Answerer(Predictor):
    """Answers questions about texts."""

    _: KW_ONLY
    stride: int
    max_answer: int

    def answer(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """The best answer for every (question, context)."""
        return [answer.text for answer in self.answers(pairs)]

    def predict(self, lines: Sequence[str]) -> list[str]:
        """The answers for lines of a question, a tab and a context; ValueError for a line without a tab."""
        for number, line in enumerate(lines, 1):
            if "\t" not in line:
                raise ValueError(f"line {number} has no tab: write a question, a tab and a context")
        return self.answer([(question, context) for question, _, context in (line.partition("\t") for line in lines)])

    def answers(self, pairs: Sequence[tuple[str, str]]) -> list[Answer]:
        """The best answer for every (question, context), its place and its score.

        Raises ValueError for an empty context and for a question that leaves no room for one.
        """
        rows: list[Window] = []
        owners: list[int] = []
        for owner, (question, context) in enumerate(pairs):
            rows += windows(self.tokenizer, question, context, self.max_length, self.stride)
            owners += [owner] * (len(rows) - len(owners))
        return self.answers_in(rows, owners, [context for _, context in pairs])

    def answers_in(self, rows: Sequence[Window], owners: Sequence[int], contexts: Sequence[str]) -> list[Answer]:
        """The best answer in every context, given its windows: `owners` has the index of each window's context."""
        logits = self.for_each(_span_logits, [window.tokens for window in rows], [window.first for window in rows])
        best = [Answer("", 0, -np.inf) for _ in contexts]
        for owner, window, of_window in zip(owners, rows, logits, strict=True):
            score, start, end = self._span(of_window, window)
            if score > best[owner].score:
                begin, stop = window.offsets[start - window.first][0], window.offsets[end - window.first][1]
                text = contexts[owner][begin:stop]
                best[owner] = Answer(text.strip(), begin + len(text) - len(text.lstrip()), score)
        return best

    def _span(self, logits: Float[np.ndarray, "length 2"], window: Window) -> tuple[float, int, int]:
        """The best first and last token of a window's context, and their score."""
        end = window.first + len(window.offsets)
        starts, ends = logits[window.first : end, 0], logits[window.first : end, 1]
        sums = np.triu(starts[:, None] + ends[None, :]) + np.tril(np.full((len(starts),) * 2, -np.inf), -1)
        sums[np.triu_indices(len(starts), self.max_answer)] = -np.inf
        start, stop = np.unravel_index(sums.argmax(), sums.shape)
        return float(sums[start, stop]), window.first + int(start), window.first + int(stop)


def windows(tokenizer: Tokenizer, question: str, context: str, max_length: int, stride: int) -> list[Window]:
    """A question and a part of its context in every window, as `join_parts` joins them; parts overlap by `stride`.

    Raises ValueError for an empty context and for a question that leaves no room for more than the overlap.
    """
    asked = [tokenizer.bos_id, *tokenizer.encode(question), *[tokenizer.eos_id] * tokenizer.between]
    ids, offsets = tokenizer.encode_with_offsets(context)
    if not ids:
        raise ValueError(f"the question {question[:40]!r} has an empty context")
    room, size = max_length - len(asked) - 1, len(asked) - 1 - tokenizer.between
    if room <= min(stride, len(ids) - 1):
        raise ValueError(f"the question {question[:40]!r} has {size} tokens: no room for a context in {max_length}")
    parts, start = [], 0
    while True:
        end = min(start + room, len(ids))
        parts.append(Window([*asked, *ids[start:end], tokenizer.eos_id], len(asked), offsets[start:end]))
        if end == len(ids):
            return parts
        start = end - stride


def span_logits(
    model: EncoderOnly, tokens: Array, lengths: Array, first: Array, *, key: PRNGKeyArray | None = None
) -> Float[Array, "batch length 2"]:
    """The logits of each token as the answer's first and last; those of padding are masked."""
    logits = model(tokens, lengths=lengths, token_types=token_types(tokens, first), key=key)
    real = jnp.arange(tokens.shape[1])[None] < jnp.maximum(lengths, 1)[:, None]
    return jnp.where(real[:, :, None], logits, MASKED)


_span_logits = jax.jit(span_logits)


def _covered(window: Window, inside: Sequence[int], start: int, end: int) -> bool:
    """Whether these tokens are all of the characters from `start` to `end` that any token stands for.

    A vocabulary may drop accents and white space at the ends of an answer; at the ends of a window there may be more.
    """
    first, last = inside[0] - window.first, inside[-1] - window.first
    begins = window.offsets[first][0] <= start or first != 0
    return begins and (end <= window.offsets[last][1] or last != len(window.offsets) - 1)
