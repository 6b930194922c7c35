"""Masked language modelling: tokens hidden in running text, by an encoder-only model (Devlin et al. 2019)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from annotated_types import Gt, Lt
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.config import DataConfig
from transformer_jax.data.masking import Masked, mask_tokens, places_to_predict
from transformer_jax.data.pipeline import Batch
from transformer_jax.data.sources import Example
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.models.encoder_only import EncoderOnly, EncoderOnlyConfig
from transformer_jax.tasks.losses import label_sums
from transformer_jax.tasks.mask_filler import MaskFiller, mask_of
from transformer_jax.tasks.running_text import RunningText
from transformer_jax.tasks.task import Sums, Tokenizers, resolved


@dataclass(frozen=True)
class MaskedLanguageModelling(RunningText):
    """Learns `text`, documents packed end to end in rows of `data.max_length`, other tokens masked in every epoch."""

    head: ClassVar[str] = "language_model"
    """What the model has."""

    rate: Annotated[float, Gt(0), Lt(1)] = 0.15
    """Share of the tokens that have to be predicted; 80 % of them are masked, 10 % changed, 10 % left."""
    whole_words: bool = False
    """All tokens of a word are chosen together."""

    def augment(self, batch: Batch, tokenizers: Tokenizers, *, seed: int, epoch: int) -> Batch:
        """What `to_predict` gives, and which tokens belong together."""
        # The plan's rows begin with the last token of another row, which only causal models need.
        tokens, segments, positions = (batch[name][:, :-1] for name in ("tokens", "segments", "positions"))
        keys = np.stack([batch["example"], batch["place"]], axis=1)
        settings = mask_settings(tokenizers["text"], self.whole_words)
        masked = mask_tokens(
            tokens, np.ones(tokens.shape, bool), keys, seed=seed, epoch=epoch, rate=self.rate, **settings
        )
        return self.to_predict(tokens, masked) | {"segments": segments, "positions": positions}

    def to_predict(self, tokens: np.ndarray, masked: Masked) -> Batch:
        """`tokens` with masks, `places` of those to predict and the `labels` that stood there (-1: no more)."""
        places, labels = places_to_predict(tokens, masked, self.most_predictions(tokens.shape[1]))
        return {"tokens": masked.tokens, "places": places, "labels": labels}

    def most_predictions(self, length: int) -> int:
        """Predictions of a row: four standard deviations more than are expected. More than that are not predicted."""
        return min(math.ceil(self.rate * length + 4 * math.sqrt(self.rate * length)), length)

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderOnlyConfig:
        """The model with its vocabulary size; ValueError where data, task and model contradict each other."""
        return resolved(self, model, EncoderOnlyConfig, data, vocab_sizes["text"], head=self.head)

    def loss(self, model: EncoderOnly, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """`loss` and `accuracy` of the tokens to predict."""
        vectors = model.encode(batch["tokens"], segments=batch["segments"], positions=batch["positions"], key=key)
        return self.masked_loss(model, vectors, batch)

    def masked_loss(self, model: EncoderOnly, vectors: Array, batch: Mapping[str, Array]) -> Sums:
        """`loss` and `accuracy` of the tokens to predict, given the vectors of all."""
        vectors = jnp.take_along_axis(vectors, batch["places"][:, :, None], axis=1)
        return label_sums(model.predict(vectors), batch["labels"], vocab_size=model.embedding.vocab_size)

    def predictor(self, model: EncoderOnly, tokenizers: Tokenizers, data: DataConfig) -> MaskFiller:
        """The model with `fill`, `candidates` and `embed`."""
        return MaskFiller(model, tokenizers["text"], max_length=data.max_length)

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        """Of the tokens to predict."""
        return {"loss": "lower", "accuracy": "higher"}

    def evaluate(self, predictor: MaskFiller, examples: Sequence[Example]) -> dict[str, Any]:
        """Loss, perplexity and accuracy (in percent) of tokens that are chosen once for all as in training."""
        tokenizer = predictor.tokenizer
        settings = mask_settings(tokenizer, self.whole_words)
        total, right, count = predictor.masked_losses(
            [example["text"] for example in examples],
            lambda tokens, real, keys: mask_tokens(tokens, real, keys, seed=0, epoch=0, rate=self.rate, **settings),
        )
        loss = total / max(count, 1)
        scores = {"loss": loss, "perplexity": math.exp(min(loss, 700)), "accuracy": 100 * right / max(count, 1)}
        return {"examples": len(examples), "tokens": count, **scores}

    def samples(self, predictor: MaskFiller, examples: Sequence[Example]) -> list[str]:
        """The beginnings of documents with a word masked, and what is put there."""
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
    """What `mask_tokens` needs to know of a vocabulary; ValueError where that has no mask."""
    mask_id = mask_of(tokenizer)
    starts = np.array([tokenizer.starts_word(i) for i in range(tokenizer.vocab_size)]) if whole_words else None
    special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, mask_id}
    return {
        "mask_id": mask_id,
        "vocab_size": tokenizer.vocab_size,
        "special": frozenset(special),
        "word_starts": starts,
    }
