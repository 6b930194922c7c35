"""Vectors of texts, by a pretrained encoder without a head (Reimers and Gurevych 2019, "Sentence-BERT")."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.config import DataConfig
from transformer_jax.data.fields import MAY_CHANGE
from transformer_jax.models.encoder_only import EncoderOnly, EncoderOnlyConfig, mean_vector
from transformer_jax.tasks.predictor import Predictor
from transformer_jax.tasks.task import RunningText, Sums, Tokenizers, resolved

NOTHING_TO_LEARN = (
    "TextVectors learns nothing, so there is no loss: fine-tune the run's parameters for another task, such as "
    "Classification, with --train.initialize-from"
)


@dataclass(frozen=True)
class TextVectors(RunningText):
    """Turns a `text` into a vector; nothing is learnt."""

    packed: ClassVar[bool] = False

    pooling: Annotated[Literal["mean", "first"], MAY_CHANGE] = "mean"
    """The mean of the tokens' vectors, special tokens included, or the vector of the first."""
    normalise: Annotated[bool, MAY_CHANGE] = False
    """Vectors have the length 1."""

    def resolve(self, model: Any, data: DataConfig, vocab_sizes: Mapping[str, int]) -> EncoderOnlyConfig:
        return resolved(self, model, EncoderOnlyConfig, data, vocab_sizes["text"])

    def loss(self, model: EncoderOnly, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        raise ValueError(NOTHING_TO_LEARN)

    def predictor(self, model: EncoderOnly, tokenizers: Tokenizers, data: DataConfig) -> "TextEncoder":
        """The model with `embed`."""
        return TextEncoder(model, tokenizers["text"], self, max_length=data.max_length)


@dataclass(eq=False, repr=False)
class TextEncoder(Predictor):
    """Turns texts into vectors."""

    task: TextVectors

    def embed(self, texts: Sequence[Any]) -> list[list[float]]:
        """A vector for every text, pooled as the task says."""
        form = {"pooling": self.task.pooling, "normalise": self.task.normalise}
        vectors = self.for_each(_vectors, self.encoded(texts), **form)
        return [vector.tolist() for vector in vectors]

    def predict(self, lines: Sequence[str]) -> list[str]:
        """The vector of every line, numbers with spaces between."""
        return [" ".join(f"{number:.6g}" for number in vector) for vector in self.embed(lines)]


@partial(jax.jit, static_argnames=("pooling", "normalise"))
def _vectors(model: EncoderOnly, tokens: Array, lengths: Array, *, pooling: str, normalise: bool) -> Array:
    x = model.encode(tokens, lengths=lengths).vectors
    x = mean_vector(x, lengths) if pooling == "mean" else x[:, 0].astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12) if normalise else x
