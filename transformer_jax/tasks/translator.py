"""A trained encoder-decoder as people use it: texts in, texts out."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge
from jaxtyping import Array

from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.decoding.beam import BeamResult, beam_search
from transformer_jax.decoding.greedy import greedy_search
from transformer_jax.models.encoder_decoder import DecoderCache, EncoderDecoder
from transformer_jax.parallel.axes import constrain
from transformer_jax.tasks.attention_map import AttentionMap
from transformer_jax.tasks.losses import cross_entropy
from transformer_jax.tasks.rows import grouped, listed, padded


@dataclass(frozen=True)
class Decoding:
    """The paper's beam search (Vaswani et al. 2017, section 6.1)."""

    beam_size: Annotated[int, Ge(1)] = 4
    """Hypotheses kept at each step; 1 is greedy search."""
    length_penalty: float = 0.6
    """alpha in log P(Y) / ((5 + |Y|) / 6)^alpha."""
    extra_length: Annotated[int, Ge(0)] = 50
    """A translation has at most this many tokens more than its source."""
    tokens_per_batch: Annotated[int, Ge(1)] = 4096
    """Source tokens that are translated at once."""


class Hypothesis(NamedTuple):
    """One translation that a search found."""

    text: str
    """The translation."""
    score: float
    """Log-probability over the length penalty."""
    log_prob: float
    """Log-probability of the tokens and the end token, in nats."""


class TextTokenizers(NamedTuple):
    """The two tokenizers of a translator, the same object where the vocabulary is shared."""

    source: Tokenizer
    target: Tokenizer

    def encode(self, text: str) -> list[int]:
        """Token ids of a source text, without an end token."""
        return self.source.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The target text of token ids; special tokens are left out."""
        return self.target.decode(list(ids))


class Translator:
    """Translates, scores and shows attention. Unpacks into its parts: `model, tokenizer = translator`."""

    def __init__(
        self,
        model: EncoderDecoder,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        decoding: Decoding = Decoding(),
        *,
        max_length: int = 256,
    ):
        self.model = model
        self.tokenizer = TextTokenizers(source_tokenizer, target_tokenizer)
        self.decoding = decoding
        self.max_length = max_length

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.tokenizer))

    def __repr__(self) -> str:
        sizes = ", ".join(
            f"{tokenizer.vocab_size:,} {side} tokens" for side, tokenizer in self.tokenizer._asdict().items()
        )
        return f"Translator({sizes}, {self.decoding}, max_length={self.max_length})"

    def translate(self, lines: Sequence[str]) -> list[str]:
        """The best translation of every line; an empty line stays empty.

        Raises ValueError for a line of more than `max_length` tokens: nothing is cut off silently.
        """
        return [hypotheses[0].text for hypotheses in self.search(lines)]

    predict = translate

    def search(self, lines: Sequence[str], n_best: int = 1) -> list[list[Hypothesis]]:
        """The `n_best` translations of every line, best first, all different; fewer where the search found fewer.

        Tokens that are other pieces of the same text count once, with the best of their scores.
        """
        if not 1 <= n_best <= self.decoding.beam_size:
            raise ValueError(f"n_best is {n_best}; the beam holds 1 to {self.decoding.beam_size} hypotheses")
        found = [[Hypothesis("", 0.0, 0.0)] for _ in lines]
        encoded = self._encoded(lines)
        for batch in self._batches(encoded, {i: len(encoded[i]) for i, line in enumerate(lines) if line.strip()}):
            result = self.search_tokens(jnp.asarray(batch.tokens), jnp.asarray(batch.lengths))
            tokens, lengths, scores, log_probs = (
                np.asarray(array) for array in (result.tokens, result.lengths, result.scores, result.log_probs)
            )
            for row, line in enumerate(batch.lines):
                best: dict[str, Hypothesis] = {}
                for i in np.flatnonzero(lengths[row]).tolist():
                    text = self.tokenizer.decode(tokens[row, i, : lengths[row, i]].tolist())
                    best.setdefault(text, Hypothesis(text, float(scores[row, i]), float(log_probs[row, i])))
                found[line] = list(best.values())[:n_best]
                if not found[line] or not math.isfinite(found[line][0].score):
                    raise FloatingPointError(f"line {line + 1} has no translation: the model's numbers are not finite")
        return found

    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[float]:
        """The log-probability, in nats, of every target (with its end token) given its source."""
        if len(sources) != len(targets):
            raise ValueError(f"{len(sources)} source lines, but {len(targets)} target lines")
        tokenizer = self.tokenizer.target
        encoded = self._encoded(sources)
        answers = [[tokenizer.bos_id, *ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(listed(targets))]
        self._refuse_long(answers)
        sizes = {i: max(map(len, pair)) for i, pair in enumerate(zip(encoded, answers, strict=True))}
        scores = [0.0] * len(sources)
        for batch in self._batches(encoded, sizes):
            target, lengths = padded([answers[line] for line in batch.lines], *batch.tokens.shape)
            values = _log_probabilities(self.model, batch.tokens, batch.lengths, target, lengths)
            for line, value in zip(batch.lines, values.tolist(), strict=False):
                scores[line] = value
        return scores

    def attention(self, source: str, target: str | None = None) -> list[AttentionMap]:
        """Encoder, decoder and cross-attention of every layer and head for a sentence and its translation.

        `target` is looked at instead of the model's own translation where it is given.
        """
        if not source.strip():
            raise ValueError("an empty sentence has no attention; give one with words")
        target = self.translate([source])[0] if target is None else target
        source_ids = [*self.tokenizer.source.encode(source), self.tokenizer.source.eos_id]
        target_ids = [self.tokenizer.target.bos_id, *self.tokenizer.target.encode(target)]
        memory, encoder = self.model.encode(jnp.asarray([source_ids]), intermediates=True)
        _, decoder = self.model.decode(jnp.asarray([target_ids]), memory, intermediates=True)
        source_tokens = [self.tokenizer.source.piece(i) for i in source_ids]
        target_tokens = [self.tokenizer.target.piece(i) for i in target_ids]
        own, looked, cross = (
            np.asarray(weights[:, 0])
            for weights in (
                encoder.attention["self_attention"],
                decoder.attention["self_attention"],
                decoder.attention["cross_attention"],
            )
        )
        return [
            AttentionMap("Encoder self-attention", own, source_tokens, source_tokens),
            AttentionMap("Decoder self-attention", looked, target_tokens, target_tokens),
            AttentionMap("Cross-attention", cross, target_tokens, source_tokens),
        ]

    def takes(self, source: str, target: str) -> bool:
        """Whether both texts are short enough for the model."""
        pair = ((self.tokenizer.source, source, 1), (self.tokenizer.target, target, 2))
        return all(len(tokenizer.encode(text)) + special <= self.max_length for tokenizer, text, special in pair)

    def search_tokens(self, source: Array, lengths: Array) -> BeamResult:
        """The search for source tokens `[batch, length]` that end in the end token, of these lengths."""
        tokenizer = self.tokenizer.target
        return _search(
            self.model,
            source,
            lengths,
            decoding=self.decoding,
            start_id=tokenizer.bos_id,
            end_id=tokenizer.eos_id,
            forbidden=tuple(sorted({tokenizer.pad_id, tokenizer.bos_id, tokenizer.unk_id} - {tokenizer.eos_id})),
        )

    def _encoded(self, lines: Sequence[str]) -> list[list[int]]:
        """Source tokens and an end token."""
        tokenizer = self.tokenizer.source
        encoded = [[*ids, tokenizer.eos_id] for ids in tokenizer.encode_batch(listed(lines))]
        self._refuse_long(encoded)
        return encoded

    def _batches(self, encoded: list[list[int]], sizes: dict[int, int]) -> Iterator["_Lines"]:
        """The lines that have a size, in batches of similar sizes."""
        for lines, width, rows in grouped(sizes, self.decoding.tokens_per_batch):
            yield _Lines(lines, *padded([encoded[line] for line in lines], rows, width))

    def _refuse_long(self, encoded: Sequence[Sequence[int]]) -> None:
        for line, ids in enumerate(encoded, 1):
            if len(ids) > self.max_length:
                raise ValueError(f"line {line} has {len(ids)} tokens, more than the {self.max_length} of the model")


class _Lines(NamedTuple):
    lines: list[int]
    """Their numbers."""
    tokens: np.ndarray
    lengths: np.ndarray


@partial(jax.jit, static_argnames=("decoding", "start_id", "end_id", "forbidden"))
def _search(
    model: EncoderDecoder,
    source: Array,
    lengths: Array,
    *,
    decoding: Decoding,
    start_id: int,
    end_id: int,
    forbidden: tuple[int, ...],
) -> BeamResult:
    """Translations of source tokens `[batch, length]`: encoded once, then searched."""
    source = constrain(source, ("batch", "length"))
    capacity = source.shape[1] + decoding.extra_length
    limits = jnp.where(lengths > 0, lengths + decoding.extra_length, 0)
    cache = model.start_cache(model.encode(source, source_lengths=lengths), lengths, capacity)
    prompt = jnp.full((source.shape[0], 1), start_id)
    arguments: dict[str, Any] = {
        "end_id": end_id,
        "max_new_tokens": limits,
        "capacity": capacity,
        "forbidden": forbidden,
    }
    if decoding.beam_size == 1:
        tokens, found, log_probs = greedy_search(model.extend, cache, prompt, **arguments)
        penalty = ((5 + jnp.maximum(found, 1)) / 6) ** decoding.length_penalty
        return BeamResult(tokens[:, None], found[:, None], (log_probs / penalty)[:, None], log_probs[:, None])
    return beam_search(
        model.extend,
        DecoderCache.take,
        cache,
        prompt,
        beam_size=decoding.beam_size,
        alpha=decoding.length_penalty,
        **arguments,
    )


@jax.jit
def _log_probabilities(model: EncoderDecoder, source: Array, lengths: Array, target: Array, targets: Array) -> Array:
    source, target = constrain(source, ("batch", "length")), constrain(target, ("batch", "length"))
    logits = model(source, target, source_lengths=lengths)
    _, losses = cross_entropy(logits, jnp.roll(target, -1, axis=1), vocab_size=model.embedding.vocab_size)
    return -jnp.sum(jnp.where(jnp.arange(target.shape[1])[None] < targets[:, None] - 1, losses, 0), axis=1)
