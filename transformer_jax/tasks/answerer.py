"""A trained reader as people use it: a question and a text in, the part of the text that answers it out."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.models.encoder_only import EncoderOnly
from transformer_jax.nn.mask import MASKED
from transformer_jax.parallel.axes import constrain
from transformer_jax.tasks.encoder import second
from transformer_jax.tasks.rows import for_each


class Window(NamedTuple):
    """As much of a question and its context as the model takes."""

    tokens: list[int]
    first: int
    """Where the context begins."""
    offsets: dict[int, tuple[int, int]]
    """For every token of the context, by its place: the characters that it stands for."""


class Answer(NamedTuple):
    """A part of a context."""

    text: str
    start: int
    """Where it begins, in characters of the context."""
    score: float
    """Sum of the logits of its first and last token; higher is better."""


class Answerer:
    """Answers questions. Unpacks into its parts: `model, tokenizer = answerer`."""

    def __init__(self, model: EncoderOnly, tokenizer: Tokenizer, *, max_length: int, stride: int, max_answer: int):
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.stride = stride
        self.max_answer = max_answer

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.tokenizer))

    def answer(self, pairs: Sequence[tuple[str, str]]) -> list[str]:
        """The best answer for every (question, context)."""
        return [found.text for found in self.answers(pairs)]

    def predict(self, lines: Sequence[str]) -> list[str]:
        """The answers for lines of a question, a tab and a context; ValueError for a line without a tab."""
        for number, line in enumerate(lines, 1):
            if "\t" not in line:
                raise ValueError(f"line {number} has no tab: write a question, a tab and a context")
        return self.answer([(question, context) for question, _, context in (line.partition("\t") for line in lines)])

    def answers(self, pairs: Sequence[tuple[str, str]]) -> list[Answer]:
        """The best answer for every (question, context), where it stands, and its score.

        Raises ValueError for an empty context and for a question that leaves no room for one.
        """
        rows = [
            (owner, window)
            for owner, (question, context) in enumerate(pairs)
            for window in windows(self.tokenizer, question, context, self.max_length, self.stride)
        ]
        tokens, first = [window.tokens for _, window in rows], [window.first for _, window in rows]
        best = [Answer("", 0, -np.inf) for _ in pairs]
        for (owner, window), logits in zip(rows, for_each(partial(_logits, self.model), tokens, first), strict=True):
            score, start, end = self._span(logits, window)
            if score > best[owner].score:
                begin, stop = window.offsets[start][0], window.offsets[end][1]
                text = pairs[owner][1][begin:stop]
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
    """A start token, the question, an end token, a part of the context and an end token; parts overlap by `stride`.

    Raises ValueError for an empty context and for a question that leaves no room for more than the overlap.
    """
    asked = [tokenizer.bos_id, *tokenizer.encode(question), tokenizer.eos_id]
    ids, offsets = tokenizer.encode_with_offsets(context)
    if not ids:
        raise ValueError(f"the question {question[:40]!r} has an empty context")
    room = max_length - len(asked) - 1
    if room <= min(stride, len(ids) - 1):
        raise ValueError(
            f"the question {question[:40]!r} has {len(asked) - 2} tokens: no room for a context in {max_length}"
        )
    found, start = [], 0
    while True:
        end = min(start + room, len(ids))
        places = dict(enumerate(offsets[start:end], len(asked)))
        found.append(Window([*asked, *ids[start:end], tokenizer.eos_id], len(asked), places))
        if end == len(ids):
            return found
        start = end - stride


def span_logits(
    model: EncoderOnly, tokens: Array, lengths: Array, first: Array, *, key: PRNGKeyArray | None = None
) -> Float[Array, "batch length 2"]:
    """Logits of being the answer's first and last token, those of padding hidden."""
    logits = model(tokens, lengths=lengths, token_types=second(tokens, first), key=key)
    real = jnp.arange(tokens.shape[1])[None] < jnp.maximum(lengths, 1)[:, None]
    return jnp.where(real[:, :, None], logits, MASKED)


@jax.jit
def _logits(model: EncoderOnly, tokens: Array, lengths: Array, first: Array) -> Array:
    return span_logits(model, constrain(tokens, ("batch", "length")), lengths, first)
