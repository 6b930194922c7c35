"""Masked language modelling: tokens hidden in running text, by an encoder-only model (Devlin et al. 2019)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Gt, Lt
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.config import DataConfig
from transformer_jax.data.masking import Masked, mask_tokens, places_to_predict
from transformer_jax.data.pipeline import Batch
from transformer_jax.data.sources import Example
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.models.config import Encoded
from transformer_jax.models.encoder_only import EncoderOnly, EncoderOnlyConfig
from transformer_jax.tasks.losses import label_sums
from transformer_jax.tasks.predictor import Predictor, listed
from transformer_jax.tasks.sequences import join_parts, token_types
from transformer_jax.tasks.task import RunningText, Sums, Tokenizers, means_of, resolved


@dataclass(frozen=True)
class MaskedLanguageModelling(RunningText):
    """Learns `text`, documents packed end to end in rows of `data.max_length`, other tokens masked in every epoch."""

    head: ClassVar[str] = "language_model"
    """The model's head."""

    rate: Annotated[float, Gt(0), Lt(1)] = 0.15
    """Share of the tokens that have to be predicted; 80 % of them are masked, 10 % changed, 10 % left."""
    whole_words: bool = False
    """All tokens of a word are chosen together."""

    def augment(self, batch: Batch, tokenizers: Tokenizers, *, seed: int, epoch: int) -> Batch:
        """The arrays of `to_predict`, and the documents and positions of the tokens."""
        # The plan's rows begin with the last token of another row, which only causal models need.
        tokens, segments, positions = (batch[name][:, :-1] for name in ("tokens", "segments", "positions"))
        keys = np.stack([batch["example"], batch["place"]], axis=1)
        settings = mask_settings(tokenizers["text"], self.whole_words)
        real = np.ones(tokens.shape, bool)
        masked = mask_tokens(tokens, real, keys, seed=seed, epoch=epoch, rate=self.rate, **settings)
        return self.to_predict(tokens, masked) | {"segments": segments, "positions": positions}

    def to_predict(self, tokens: np.ndarray, masked: Masked) -> Batch:
        """`tokens` with masks, `places` of those to predict and the `labels` that stood there (-1: no more)."""
        places, labels = places_to_predict(tokens, masked, self.most_predictions(tokens.shape[1]))
        return {"tokens": masked.tokens, "places": places, "labels": labels}

    def most_predictions(self, length: int) -> int:
        """Predictions of a row: four standard deviations more than are expected. More than that are not predicted."""
        return min(math.ceil(self.rate * length + 4 * math.sqrt(self.rate * length)), length)

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderOnlyConfig:
        return resolved(self, model, EncoderOnlyConfig, data, vocab_sizes["text"], head=self.head)

    def loss(self, model: EncoderOnly, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """`loss` and `accuracy` of the tokens to predict."""
        encoded = model.encode(batch["tokens"], segments=batch["segments"], positions=batch["positions"], key=key)
        return self.masked_loss(model, encoded, batch)

    def masked_loss(self, model: EncoderOnly, encoded: Encoded, batch: Mapping[str, Array]) -> Sums:
        """`loss` and `accuracy` of the tokens to predict, given the vectors of all."""
        vectors = jnp.take_along_axis(encoded.vectors, batch["places"][:, :, None], axis=1)
        return label_sums(model.predict(Encoded(vectors)), batch["labels"], vocab_size=model.embedding.vocab_size)

    def predictor(self, model: EncoderOnly, tokenizers: Tokenizers, data: DataConfig) -> "MaskFiller":
        """The model with `fill`, `candidates` and `embed`."""
        return MaskFiller(model, tokenizers["text"], max_length=data.max_length)

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        return {"loss": "lower", "accuracy": "higher"}

    def loss_metrics(self, sums: Mapping[str, tuple[float, float]], examples: Sequence[Example]) -> dict[str, Any]:
        """Loss, perplexity and shares (in percent) of what is predicted; masks are drawn once, as in training."""
        means = means_of(sums)
        shares = {name: 100 * means[name] for name in self.metrics() if name != "loss"}
        perplexity = math.exp(min(means.get("nll", means["loss"]), 700))
        return {"tokens": int(sums["loss"][1]), "loss": means["loss"], "perplexity": perplexity, **shares}

    def samples(self, predictor: "MaskFiller", examples: Sequence[Example]) -> list[str]:
        """The beginnings of documents with a word masked, and the word predicted there."""
        lines = []
        for example in examples:
            words = example["text"].split()[:20]
            while len(words) > 1 and not predictor.fits(" ".join(words)):
                words.pop()
            hidden, words[len(words) // 2] = words[len(words) // 2], predictor.mask
            text = " ".join(words)
            lines += [text, f"  -> {predictor.candidates(text)[0][0][0]}  (was {hidden})"]
        return lines


@lru_cache(maxsize=8)
def mask_settings(tokenizer: Tokenizer, whole_words: bool) -> dict[str, Any]:
    """The arguments of `mask_tokens` that follow from a vocabulary; ValueError for one that has no mask."""
    mask_id, vocab_size = mask_of(tokenizer), tokenizer.vocab_size
    starts = np.array([tokenizer.starts_word(i) for i in range(vocab_size)]) if whole_words else None
    special = frozenset({tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, mask_id})
    return {"mask_id": mask_id, "vocab_size": vocab_size, "special": special, "word_starts": starts}


def mask_of(tokenizer: Tokenizer) -> int:
    """The number of the mask; ValueError for a vocabulary that has none."""
    if tokenizer.mask_id is None:
        raise ValueError("the vocabulary has no mask token; set data.tokenizer.mask, or use WordPiece")
    return tokenizer.mask_id


class MaskFiller(Predictor):
    """Fills masks, embeds texts and says whether one follows from another."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mask = self.tokenizer.piece(mask_of(self.tokenizer))
        """How a mask is written in a text, such as [MASK]."""

    def candidates(self, text: str, count: int = 5) -> list[list[tuple[str, float]]]:
        """For every mask of the text, the `count` most probable tokens and their probabilities.

        Raises ValueError for a text that has no mask or is too long.
        """
        ids = self.encoded([text])[0]
        places = [place for place, token in enumerate(ids) if token == self.tokenizer.mask_id]
        if not places:
            raise ValueError(f"the text has no {self.mask}: write it where a token is to be found")
        count = min(count, self.tokenizer.vocab_size)
        probabilities, tokens = self.for_each(_most_probable, [ids], count=count)[0]
        return [
            [(self._written(token), value) for token, value in zip(*row, strict=True)]
            for row in zip(tokens[places].tolist(), probabilities[places].tolist(), strict=True)
        ]

    def fill(self, texts: Sequence[str]) -> list[str]:
        """Every text with the most probable token at each of its masks."""
        encoded, filled = self.encoded(texts), []
        best = self.for_each(_most_probable, encoded, count=1)
        for text, ids, (_, tokens) in zip(texts, encoded, best, strict=True):
            for token in tokens[: len(ids), 0][np.array(ids) == self.tokenizer.mask_id].tolist():
                text = text.replace(self.mask, self._written(token), 1)
            filled.append(text)
        return filled

    predict = fill

    def follows(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The probability that the second text of a pair follows; ValueError unless trained by `NextSentence`."""
        joined = join_parts(self.tokenizer, [list(pair) for pair in pairs], self.max_length)
        follows = self.for_each(_follows, [ids for ids, _ in joined], [first for _, first in joined])
        return [float(probability) for probability in follows]

    def fits(self, text: str) -> bool:
        """Whether the text, with its masks, is short enough."""
        return len(self._ids(text)) <= self.max_length

    def _written(self, token: int) -> str:
        return self.tokenizer.decode([token]).strip() or self.tokenizer.piece(token)

    def encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of every text, those of its masks included; ValueError for a text that is too long."""
        return self.refuse_long([self._ids(text) for text in listed(texts)])

    def _ids(self, text: str) -> list[int]:
        tokenizer, ids = self.tokenizer, []
        for part in text.split(self.mask):
            ids += [mask_of(tokenizer), *(tokenizer.encode(part) if part.strip() else [])]
        return [tokenizer.bos_id, *ids[1:], tokenizer.eos_id]


@jax.jit
def _follows(model: EncoderOnly, tokens: Array, lengths: Array, first: Array) -> Array:
    encoded = model.encode(tokens, lengths=lengths, token_types=token_types(tokens, first))
    return jax.nn.softmax(model.predict_next(encoded), axis=-1)[:, 1]


@partial(jax.jit, static_argnames="count")
def _most_probable(model: EncoderOnly, tokens: Array, lengths: Array, *, count: int) -> Any:
    """The probabilities and the numbers `[rows, length, count]` of the most probable tokens at every place."""
    logits = model(tokens, lengths=lengths)[:, :, : model.embedding.vocab_size]
    return jax.lax.top_k(jax.nn.softmax(logits, axis=-1), count)
