"""Translation: a source text to a target text, by an encoder-decoder model."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge, Lt
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.config import DataConfig
from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.data.sources import Example
from transformer_jax.data.table import EncodedExamples
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.decoding.beam import BeamResult, BeamSearch, beam_search
from transformer_jax.decoding.constraints import OneOf
from transformer_jax.models.config import Encoded
from transformer_jax.models.decoder import DecoderCache
from transformer_jax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from transformer_jax.nn.named import choose
from transformer_jax.tasks.losses import cross_entropy
from transformer_jax.tasks.predictor import AttentionMap, Predictor, forbidden_tokens, listed
from transformer_jax.tasks.scores import PLAIN, SCORES, TextScoring, check_scores, text_scores
from transformer_jax.tasks.sequences import Tokens
from transformer_jax.tasks.task import Sums, Task, Tokenizers


@dataclass(frozen=True)
class Decoding(BeamSearch):
    """How translations are searched; by default as in the paper (Vaswani et al. 2017, section 6.1)."""

    extra_length: Annotated[int, Ge(0)] = 50
    """A translation has at most this many tokens more than its source."""
    max_new_tokens: Annotated[int, Ge(0)] = 0
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
class Translation(Task):
    """Learns `target` given `source` (Vaswani et al. 2017, section 5)."""

    features: ClassVar[tuple[str, ...]] = ("source", "target")

    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1
    """Share of the target probability that is spread over all tokens."""
    decoding: Annotated[Decoding, MAY_CHANGE] = field(default_factory=Decoding)
    """How translations are searched."""
    scores: Annotated[tuple[str, ...], MAY_CHANGE] = ("bleu", "chrf")
    """Scores of an evaluation: bleu, compound_split_bleu, chrf, chrf++, ter, rouge1, rouge2, rougeL, rougeLsum, comet,
    exact_match."""
    bleu_tokenize: str = "13a"
    """sacreBLEU's tokenizer; none for text that is already tokenised."""
    comet_model: Annotated[str, MAY_CHANGE] = PLAIN.comet_model
    """COMET's model: a name on the hub, or a file."""
    bootstrap: Annotated[int, Ge(0), MAY_CHANGE] = 0
    """Resamples of the examples for the 95 % interval of each score, 1000 as a rule; 0: no intervals."""
    references: Annotated[tuple[str, ...], MAY_CHANGE] = ("references",)
    """What examples with several right targets call the others: a text, or a list that may begin with the target."""
    source_prefix: str = ""
    """Text in front of every source, such as the instruction of a T5."""
    source_start: str = ""
    """A token of the vocabulary with which every source begins, such as the code of its language."""
    source_end: str = ""
    """A token of the vocabulary behind the end token of every source, where mBART has the code of its language."""
    source_eos: bool = True
    """Whether every source has an end token, as those of T5Gemma have not."""
    target_start: str = ""
    """A token of the vocabulary behind the start token of every target, such as the code of its language."""
    truncate: bool = False
    """Whether a source of more than data.max_length tokens loses its end, rather than being skipped or refused."""

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """Source tokens and target tokens, both with their special tokens around them."""
        source, target = tokenizers["source"], tokenizers["target"].for_targets
        sources, targets = ([example[name] for example in examples] for name in self.features)
        return {
            "source": self.source_tokens(source, max_length)(sources),
            "target": [[target.bos_id, *ids] for ids in tokens_of(target, targets, self.target_start)],
        }

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderDecoderConfig:
        if not isinstance(model, EncoderDecoderConfig):
            raise ValueError(f"Translation needs an EncoderDecoderConfig as its model, not {type(model).__name__}")
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
        check_scores(self.scores, self.bleu_tokenize)
        for name, size in (("vocab_size", vocab_sizes["target"]), ("source_vocab_size", vocab_sizes["source"])):
            if getattr(model, name) not in (0, size):
                raise ValueError(f"model.{name} follows from the tokenizer; set data.tokenizer.vocab_size instead")
        return replace(model, vocab_size=vocab_sizes["target"], source_vocab_size=vocab_sizes["source"])

    def loss(self, model: EncoderDecoder, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """`loss`, with label smoothing, and `nll`, without; each over the target tokens that are not padding."""
        target, lengths = batch["target"], batch["target_length"]
        # The last column sees itself as its next token; it is past every length and weighs nothing.
        labels = jnp.concatenate([target[:, 1:], target[:, -1:]], axis=1)
        logits = model(batch["source"], target, source_lengths=batch["source_length"], key=key)
        vocab_size = model.embedding.vocab_size
        smoothed, plain = cross_entropy(logits, labels, vocab_size=vocab_size, label_smoothing=self.label_smoothing)
        weights = (jnp.arange(target.shape[1])[None] < lengths[:, None] - 1).astype(jnp.float32)
        tokens = jnp.sum(weights)
        return {"loss": (jnp.sum(smoothed * weights), tokens), "nll": (jnp.sum(plain * weights), tokens)}

    def num_tokens(self, batch: Mapping[str, Any]) -> Array:
        """Target tokens that are predicted."""
        return jnp.sum(jnp.maximum(batch["target_length"] - 1, 0))

    def source_tokens(self, tokenizer: Tokenizer, max_length: int) -> "SourceTokens":
        """How sources become tokens."""
        longest = max_length if self.truncate else None
        around = {"start": self.source_start, "end": self.source_end, "eos": self.source_eos}
        return partial(tokens_of, tokenizer, prefix=self.source_prefix, longest=longest, **around)

    def predictor(self, model: EncoderDecoder, tokenizers: Tokenizers, data: DataConfig) -> "Translator":
        """The model with `translate`, `score` and `attention`."""
        source, target = tokenizers["source"], tokenizers["target"].for_targets
        settings = {"max_length": data.max_length, "target_start": self.target_start}
        tokens = self.source_tokens(source, data.max_length)
        return Translator(model, source, target, self.decoding, source_tokens=tokens, **settings)

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        return {"loss": "lower", **{name: choose("score", name, SCORES).better for name in self.scores}}

    def check_evaluation(self, tokenizers: Tokenizers, examples: EncodedExamples, *, max_length: int) -> None:
        list(map(self.right, examples))
        text_scores(["a"], ["a"], self.scores, self.scoring(["a"]))

    def evaluate(self, predictor: "Translator", examples: EncodedExamples) -> dict[str, Any]:
        """The scores of the translations; examples that are longer than the model takes are counted as `skipped`."""
        texts = self.outputs(predictor, examples)
        skipped = len(examples) - len(texts)
        counts = {"examples": len(texts)} | ({"skipped": skipped} if skipped else {})
        return counts | self.scores_of(texts, [examples[index] for index in examples.of_rows])

    def outputs(self, predictor: "Translator", examples: EncodedExamples) -> list[str]:
        """The translations of the examples that have a row, `examples.of_rows`."""
        sources = examples.of_row(self.features[0])
        return [best.text for best, *_ in predictor.search_encoded(sources, examples.column("source"))]

    def scores_of(self, texts: Sequence[str], examples: Sequence[Example]) -> dict[str, Any]:
        """The scores of one text for every example."""
        scoring = self.scoring([example[self.features[0]] for example in examples])
        return text_scores(texts, list(map(self.right, examples)), self.scores, scoring, bootstrap=self.bootstrap)

    def scoring(self, sources: Sequence[str]) -> TextScoring:
        """What scores depend on, beside the texts."""
        return TextScoring(self.bleu_tokenize, self.comet_model, sources)

    def right(self, example: Example) -> list[str]:
        """The right targets of an example; ValueError for what is neither text nor a list of texts."""
        targets = [example[self.features[1]]]
        for name in self.references:
            more = example.get(name) or []
            several = [more] if isinstance(more, str) else more
            if not isinstance(several, list) or not all(isinstance(text, str) for text in several):
                raise ValueError(f"task.references: {name!r} of an example is neither text nor a list of texts: {more}")
            targets = several if several is more and several[:1] == targets else [*targets, *several]
        return [text for text in targets if text.strip()]


class Hypothesis(NamedTuple):
    """One translation of a search."""

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


SourceTokens = Callable[[Sequence[str]], list[list[int]]]
"""From texts to the tokens that a model reads."""


def tokens_of(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    start: str = "",
    end: str = "",
    *,
    eos: bool = True,
    prefix: str = "",
    longest: int | None = None,
) -> list[list[int]]:
    """The tokens of texts and the end token, between those of the names `start` and `end`.

    Each text begins with `prefix`, and loses its end where there would be more tokens than `longest`.
    """
    first, last = named_tokens(tokenizer, start), [tokenizer.eos_id] * eos + named_tokens(tokenizer, end)
    room = None if longest is None else max(longest - len(first) - len(last), 0)
    encoded = tokenizer.encode_batch([f"{prefix}{text}" for text in listed(texts)])
    return [[*first, *ids[:room], *last] for ids in encoded]


def named_tokens(tokenizer: Tokenizer, name: str) -> list[int]:
    """The token of this name, or none without a name."""
    return [tokenizer.token_id(name)] if name else []


class Translator(Predictor):
    """Translates, scores and shows attention."""

    def __init__(
        self,
        model: EncoderDecoder,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        decoding: Decoding = Decoding(),
        *,
        max_length: int = 256,
        source_tokens: SourceTokens | None = None,
        target_start: str = "",
    ):
        tokenizers = TextTokenizers(source_tokenizer, target_tokenizer)
        self.tokens_of_sources = source_tokens or partial(tokens_of, source_tokenizer)
        self.target_start = [target_tokenizer.bos_id, *named_tokens(target_tokenizer, target_start)]
        self.forbidden = forbidden_tokens(target_tokenizer, decoding, target_tokenizer.eos_id)
        super().__init__(model, tokenizers, max_length=max_length, tokens_per_batch=decoding.tokens_per_batch)
        self.decoding = decoding

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

        Tokens that are other pieces of the same text count once, with the best of their scores. `among`: the texts that
        a translation may be.
        """
        if not 1 <= n_best <= self.decoding.beam_size:
            raise ValueError(f"n_best is {n_best}; the beam holds 1 to {self.decoding.beam_size} hypotheses")
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
        filled = [i for i, line in enumerate(lines) if line.strip()]
        choices = {} if among is None else self._choices(among)
        settings = self._settings() | (
            {"among": OneOf.of([*choices]), "longest": max(map(len, choices))} if choices else {}
        )
        results = self.for_each(_search, [encoded[i] for i in filled], **settings)
        for line, result in zip(filled, results, strict=True):
            best: dict[str, Hypothesis] = {}
            for ids, length, score, log_prob in zip(*result, strict=True):
                if length > 0:
                    tokens = ids[:length].tolist()
                    text = choices.get((*tokens,)) or self.tokenizer.decode(tokens)
                    best.setdefault(text, Hypothesis(text, float(score), float(log_prob)))
            hypotheses[line] = list(best.values())[:n_best]
            if not hypotheses[line] or not math.isfinite(hypotheses[line][0].score):
                if among is not None or self.decoding.constraints():
                    reason = "its rules rule all out, or the model's numbers are not finite"
                    raise ValueError(f"line {line + 1} has no translation: {reason}")
                raise FloatingPointError(f"line {line + 1} has no translation: the model's numbers are not finite")
        return hypotheses

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
    def vectors_of(model: EncoderDecoder, tokens: Array, lengths: Array) -> Encoded:
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

    def _settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {"decoding": self.decoding, "start": (*self.target_start,)}
        return settings | {"end_id": self.tokenizer.target.eos_id, "forbidden": self.forbidden}


@partial(jax.jit, static_argnames=("decoding", "start", "longest", "end_id", "forbidden"))
def _search(
    model: EncoderDecoder,
    source: Array,
    lengths: Array,
    *,
    decoding: Decoding,
    start: tuple[int, ...],
    end_id: int,
    forbidden: tuple[int, ...],
    longest: int = 0,
    among: OneOf | None = None,
) -> BeamResult:
    """Translations of source tokens `[batch, length]`: encoded once, then searched."""
    capacity = longest or decoding.limit(source.shape[1])
    limits = longest or jnp.minimum(lengths + decoding.extra_length, capacity)
    return beam_search(
        model.extend,
        DecoderCache.take,
        model.start_cache(model.encode(source, source_lengths=lengths), capacity + len(start) - 1),
        jnp.broadcast_to(jnp.array(start, jnp.int32), (source.shape[0], len(start))),
        **decoding.settings(),
        max_new_tokens=jnp.where(lengths > 0, limits, 0),
        capacity=capacity,
        end_id=end_id,
        forbidden=forbidden,
        counted=len(start) - 1,
        constraints=decoding.constraints(end_id) + (() if among is None else (among,)),
    )


@partial(jax.jit, static_argnames="first")
def _log_probabilities(
    model: EncoderDecoder, source: Array, lengths: Array, target: Array, targets: Array, *, first: int = 0
) -> Array:
    """Of target tokens behind the `first` ones, which every target has."""
    logits = model(source, target, source_lengths=lengths)
    _, losses = cross_entropy(logits, jnp.roll(target, -1, axis=1), vocab_size=model.embedding.vocab_size)
    places = jnp.arange(target.shape[1])[None]
    return -jnp.sum(jnp.where((first <= places) & (places < targets[:, None] - 1), losses, 0), axis=1)
