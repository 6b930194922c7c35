"""Translation: a source text to a target text, by an encoder-decoder model."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Lt
from jaxtyping import Array

from transformer_jax.data.config import DataConfig
from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.decoding.beam import BeamResult, BeamSearch, beam_search
from transformer_jax.decoding.constraints import Constraint, OneOf
from transformer_jax.decoding.ensemble import Ensemble
from transformer_jax.decoding.growth import growing
from transformer_jax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from transformer_jax.tasks.losses import cross_entropy
from transformer_jax.tasks.predictor import AttentionMap, Predictor, forbidden_tokens, listed
from transformer_jax.tasks.scores import PLAIN, TextScoring
from transformer_jax.tasks.sequences import Tokens, array_width
from transformer_jax.tasks.task import Tokenizers
from transformer_jax.tasks.text_task import TextTask, named_tokens, tokens_of


@dataclass(frozen=True)
class Decoding(BeamSearch):
    """How translations are searched; by default as in the paper (Vaswani et al. 2017, section 6.1)."""

    extra_length: Annotated[int, Ge(0), Lt(2**20)] = 50
    """A translation has at most this many tokens more than its source."""
    max_new_tokens: Annotated[int, Ge(0), Lt(2**20)] = 0
    """And at most this many tokens in all, its end token included; 0: no such limit."""
    tokens_per_batch: Annotated[int, Ge(1)] = 4096
    """Source tokens that are translated at once."""

    def limit(self, length: int) -> int:
        """The most tokens of the translation of a source of `length` tokens."""
        longest = length + self.extra_length
        return min(longest, self.max_new_tokens or longest)


OF_SOURCES = ("source_start", "source_end", "source_eos")
"""Fields that say what stands around a source."""


@dataclass(frozen=True)
class Translation(TextTask):
    """Learns `target` given `source` (Vaswani et al. 2017, section 5)."""

    features: ClassVar[tuple[str, ...]] = ("source", "target")

    decoding: Annotated[Decoding, MAY_CHANGE] = field(default_factory=Decoding)
    """How translations are searched."""
    comet_model: Annotated[str, MAY_CHANGE] = PLAIN.comet_model
    """COMET's model: a name on the hub, or a file."""
    source_prefix: str = ""
    """Text in front of every source, such as the instruction of a T5."""
    source_start: str = ""
    """A token of the vocabulary with which every source begins, such as the code of its language."""
    source_end: str = ""
    """A token of the vocabulary behind the end token of every source, where mBART has the code of its language."""
    source_eos: bool = True
    """Whether every source has an end token, as those of T5Gemma have not."""
    truncate: bool = False
    """Whether a source of more than data.max_length tokens loses its end, rather than being skipped or refused."""

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """Source tokens and target tokens, both with their special tokens around them."""
        sources = [example["source"] for example in examples]
        return {
            "source": self.source_tokens(tokenizers["source"], max_length)(sources),
            "target": self.target_tokens(tokenizers, examples),
        }

    @property
    def resampled(self) -> Mapping[str, tuple[int, int]]:
        source, *_ = self.features
        return {source: (int(bool(self.source_start)), self.source_eos + bool(self.source_end)), **super().resampled}

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderDecoderConfig:
        model = self.sized(model, vocab_sizes, source_vocab_size=vocab_sizes["source"])
        if model.share_embeddings and not data.shared_vocabulary:
            raise ValueError("model.share_embeddings needs data.shared_vocabulary; set both or neither")
        reach, longest = model.reach(), self.decoding.limit(data.max_length) + bool(self.target_start)
        if reach is not None and reach < max(longest, data.max_length):
            start = " and one for task.target_start" if self.target_start else ""
            raise ValueError(
                f"model.max_length {model.max_length} is below data.max_length {data.max_length} "
                f"plus task.decoding.extra_length {self.decoding.extra_length}{start}; raise it, "
                "or limit task.decoding.max_new_tokens"
            )
        return model

    def source_tokens(self, tokenizer: Tokenizer, max_length: int) -> "SourceTokens":
        """How sources become tokens."""
        longest = max_length if self.truncate else None
        around = {"start": self.source_start, "end": self.source_end, "eos": self.source_eos}
        return partial(tokens_of, tokenizer, prefix=self.source_prefix, longest=longest, **around)

    def predictor(self, model: EncoderDecoder | Ensemble, tokenizers: Tokenizers, data: DataConfig) -> "Translator":
        """The model with `translate`, `score` and `attention`."""
        source, target = tokenizers["source"], tokenizers["target"].for_targets
        settings = {"max_length": data.max_length, "target_start": self.target_start}
        tokens = self.source_tokens(source, data.max_length)
        return Translator(model, source, target, self.decoding, source_tokens=tokens, **settings)

    def outputs(self, predictor: "Translator", examples: EncodedExamples) -> list[str]:
        sources = examples.of_row(self.features[0])
        return [best.text for best, *_ in predictor.search_encoded(sources, examples.column("source"))]

    def scoring(self, examples: Sequence[Example]) -> TextScoring:
        sources = [example[self.features[0]] for example in examples]
        return TextScoring(self.bleu_tokenize, self.comet_model, sources)


class Hypothesis(NamedTuple):
    """One text of a search."""

    text: str
    score: float
    """Log-probability over the length penalty."""
    log_prob: float
    """Log-probability of the tokens and the end token, in nats."""


class TextTokenizers(NamedTuple):
    """The two tokenizers of a translator; their ids are the same where the vocabulary is shared."""

    source: Tokenizer
    target: Tokenizer

    def encode(self, text: str) -> list[int]:
        """Token ids of a source text, without an end token."""
        return self.source.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The target text of token ids; special tokens are left out."""
        return self.target.decode(list(ids))


MOST_CACHED = 2**18
"""Tokens of which all hypotheses of a batch may have keys and values: 8 GiB in float32 with 4 layers of width 1,024."""
SourceTokens = Callable[[Sequence[str]], list[list[int]]]
"""From texts to the tokens that a model reads."""


class Searcher(Predictor):
    """Writes texts by beam search, given what the encoder has read."""

    def __init__(
        self,
        model: EncoderDecoder | Ensemble,
        tokenizer: Any,
        target: Tokenizer,
        decoding: BeamSearch,
        *,
        max_length: int,
        tokens_per_batch: int,
        target_start: str = "",
    ):
        self.target, self.target_start = target, [target.bos_id, *named_tokens(target, target_start)]
        self.forbidden = forbidden_tokens(target, decoding, target.eos_id)
        super().__init__(model, tokenizer, max_length=max_length, tokens_per_batch=tokens_per_batch)
        self.decoding = decoding

    def searched(
        self,
        lines: Sequence[int],
        columns: Sequence[Sequence[Any]],
        n_best: int = 1,
        choices: Mapping[tuple[int, ...], str] | None = None,
    ) -> list[list[Hypothesis]]:
        """The `n_best` different texts, best first, for every row of the columns that `vectors_of` reads.

        Tokens that are other pieces of the same text count once, with the best of their scores. With `choices`, the
        texts by their tokens, it is one of those. Raises ValueError, with the number in `lines`, where there is none.
        """
        if not 1 <= n_best <= self.decoding.beam_size:
            raise ValueError(f"n_best is {n_best}; the beam holds 1 to {self.decoding.beam_size} hypotheses")
        choices = choices or {}
        settings = self._settings()
        settings |= {"among": OneOf.of([*choices]), "longest": self._longest(choices)} if choices else {}
        results, hypotheses = self.for_each(_search, *columns, **settings), []
        for line, result in zip(lines, results, strict=True):
            best: dict[str, Hypothesis] = {}
            for ids, length, score, log_prob in zip(*result, strict=True):
                if length > 0:
                    tokens = ids[:length].tolist()
                    text = choices.get((*tokens,)) or self.target.decode(tokens)
                    best.setdefault(text, Hypothesis(text, float(score), float(log_prob)))
            hypotheses.append(list(best.values())[:n_best])
            if not hypotheses[-1] or not math.isfinite(hypotheses[-1][0].score):
                if choices or self.decoding.constraints() or "rules" in settings:
                    reason = "its rules rule all out, or the model's numbers are not finite"
                    raise ValueError(f"line {line} has no output: {reason}")
                raise FloatingPointError(f"line {line} has no output: the model's numbers are not finite")
        return hypotheses

    def _longest(self, choices: Iterable[Sequence[int]]) -> int:
        """The tokens of the longest, rounded up, so that such lists share a compiled search, as far as models reach."""
        longest = max(map(len, choices))
        return max(longest, min(array_width(longest), self.max_length))

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"decoding": self.decoding, "start": (*self.target_start,), "read": self.vectors_of}
        return settings | {"end_id": self.target.eos_id, "forbidden": self.forbidden}


class Translator(Searcher):
    """Translates, scores and shows attention."""

    decoding: Decoding

    def __init__(
        self,
        model: EncoderDecoder | Ensemble,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        decoding: Decoding = Decoding(),
        *,
        max_length: int = 256,
        source_tokens: SourceTokens | None = None,
        target_start: str = "",
    ):
        self.tokens_of_sources = source_tokens or partial(tokens_of, source_tokenizer)
        both = TextTokenizers(source_tokenizer, target_tokenizer)
        settings: Any = {"tokens_per_batch": decoding.tokens_per_batch, "target_start": target_start}
        super().__init__(model, both, target_tokenizer, decoding, max_length=max_length, **settings)

    def most_rows(self, width: int, extra: int = 0) -> int:
        """As of any batch, and at most `MOST_CACHED` tokens in the caches of all hypotheses."""
        cached = self.decoding.beam_size * self.decoding.limit(width)
        return min(super().most_rows(width, extra), MOST_CACHED // cached)

    def translate(self, lines: Sequence[str], *, among: Sequence[str] | None = None) -> list[str]:
        """The best translation of every line, of an empty line an empty one; ValueError for a line that is too long.

        With `among`, it is one of those texts.
        """
        return [hypotheses[0].text for hypotheses in self.search(lines, among=among)]

    predict = translate

    def search(
        self, lines: Sequence[str], n_best: int = 1, *, among: Sequence[str] | None = None
    ) -> list[list[Hypothesis]]:
        """The `n_best` different translations of every line, best first, or fewer if the search has no more.

        `among`: the texts that a translation may be.
        """
        return self.search_encoded(lines, self.encoded(lines), n_best, among=among)

    def search_encoded(
        self,
        lines: Sequence[str],
        encoded: Sequence[Tokens],
        n_best: int = 1,
        *,
        among: Sequence[str] | None = None,
    ) -> list[list[Hypothesis]]:
        """`search` for lines whose tokens are known."""
        hypotheses = [[Hypothesis("", 0.0, 0.0)] for _ in lines]
        filled = {i + 1: encoded[i] for i, line in enumerate(lines) if line.strip()}
        choices = None if among is None else self._choices(among)
        columns = self.columns_of([lines[line - 1] for line in filled], [*filled.values()])
        found = self.searched([*filled], columns, n_best, choices)
        for line, texts in zip(filled, found, strict=True):
            hypotheses[line - 1] = texts
        return hypotheses

    def columns_of(self, lines: Sequence[str], encoded: Sequence[Tokens]) -> list[Sequence[Any]]:
        """What the search is given of every line: its tokens and, in a subclass, more."""
        return [encoded]

    def score(self, sources: Sequence[str], targets: Sequence[str]) -> list[float]:
        """The log-probability, in nats, of every target (with its end token) given its source."""
        if len(sources) != len(targets):
            raise ValueError(f"{len(sources)} source lines, but {len(targets)} target lines")
        answers = [[*self.target_start, *ids] for ids in tokens_of(self.tokenizer.target, targets)]
        answers = self.refuse_long(answers)
        scores = self.for_each(_log_probabilities, self.encoded(sources), answers, first=len(self.target_start) - 1)
        return [float(score) for score in scores]

    def attention(self, source: str, target: str | None = None) -> list[AttentionMap]:
        """Encoder, decoder and cross-attention of every layer and head for a sentence and its translation `target`.

        Without `target`, the translation is the model's own.
        """
        if not source.strip():
            raise ValueError("an empty sentence has no attention; give one with words")
        target = self.translate([source])[0] if target is None else target
        (source_ids,) = self.tokens_of_sources([source])
        target_ids = [*self.target_start, *self.tokenizer.target.encode(target)]
        memory = self.model.encode(jnp.asarray([source_ids]), intermediates=True)
        encoder = memory.intermediates
        decoder = self.model.decode(jnp.asarray([target_ids]), memory, intermediates=True).intermediates
        source_tokens = [self.tokenizer.source.piece(i) for i in source_ids]
        target_tokens = [self.tokenizer.target.piece(i) for i in target_ids]
        maps = [
            ("Encoder self-attention", encoder.attention["self_attention"], source_tokens, source_tokens),
            ("Decoder self-attention", decoder.attention["self_attention"], target_tokens, target_tokens),
            ("Cross-attention", decoder.attention["cross_attention"], target_tokens, source_tokens),
        ]
        return [AttentionMap(title, np.asarray(weights[:, 0]), *tokens) for title, weights, *tokens in maps]

    def search_tokens(self, source: Array, lengths: Array) -> BeamResult:
        """The search for source tokens `[batch, length]` that end in the end token, of these lengths."""
        return self.run(_search, source, lengths, **self._settings())

    @staticmethod
    def vectors_of(model: EncoderDecoder | Ensemble, tokens: Array, lengths: Array) -> Any:
        return model.encode(tokens, source_lengths=lengths)

    def encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of every line as a source; ValueError for a line that is too long."""
        return self.refuse_long(self.tokens_of_sources(texts))

    def _choices(self, among: Sequence[str]) -> dict[tuple[int, ...], str]:
        """The texts by their tokens; ValueError for one that cannot be written, and without any."""
        target, texts = self.tokenizer.target, listed(among)
        encoded = self.refuse_long(tokens_of(target, texts))
        for text, ids in zip(texts, encoded, strict=True):
            if never := {*ids} & {*self.forbidden}:
                pieces = ", ".join(map(target.piece, sorted(never)))
                raise ValueError(f"{text!r} cannot be written: it has {pieces}, which no translation has")
        if not texts:
            raise ValueError("there is no text to choose from: give one at least")
        return {(*ids,): text for text, ids in zip(texts, encoded, strict=True)}


@partial(jax.jit, static_argnames=("read", "decoding", "start", "longest", "end_id", "forbidden", "rules"))
def _search(
    model: EncoderDecoder | Ensemble,
    source: Array,
    lengths: Array,
    *more: Array,
    read: Callable[..., Any],
    decoding: Any,
    start: tuple[int, ...],
    end_id: int,
    forbidden: tuple[int, ...],
    longest: int = 0,
    among: OneOf | None = None,
    rules: Callable[..., Constraint] | None = None,
) -> BeamResult:
    """Texts behind the tokens `start` for sources `[batch, length, ...]`, which `read` encodes, with their lengths and
    `more`: of at most `longest` tokens or, with 0, of as many as `decoding` allows.

    `rules` makes a constraint from the limits of the texts and `more`.
    """
    capacity = longest or decoding.limit(source.shape[1])
    limits = jnp.where(lengths > 0, longest or jnp.minimum(lengths + decoding.extra_length, capacity), 0)
    constraints = (() if among is None else (among,)) + (() if rules is None else (rules(limits, *more),))
    memory = read(model, source, lengths, *more)

    def start_cache(room: int) -> Any:
        return model.start_cache(memory, room + len(start) - 1)

    cache, grow = growing(start_cache, capacity)
    return beam_search(
        model.extend,
        lambda cache, rows: cache.take(rows),  # of a model or of an ensemble
        cache,
        jnp.broadcast_to(jnp.array(start, jnp.int32), (len(lengths), len(start))),
        **decoding.settings(),
        max_new_tokens=limits,
        capacity=capacity,
        end_id=end_id,
        forbidden=forbidden,
        counted=len(start) - 1,
        constraints=decoding.constraints(end_id) + constraints,
        grow=grow,
    )


@partial(jax.jit, static_argnames="first")
def _log_probabilities(
    model: EncoderDecoder | Ensemble, source: Array, lengths: Array, target: Array, targets: Array, *, first: int = 0
) -> Array:
    """Of target tokens behind the `first` ones, which every target has."""
    logits = model(source, target, source_lengths=lengths)
    _, losses = cross_entropy(logits, jnp.roll(target, -1, axis=1), vocab_size=model.embedding.vocab_size)
    places = jnp.arange(target.shape[1])[None]
    return -jnp.sum(jnp.where((first <= places) & (places < targets[:, None] - 1), losses, 0), axis=1)
