"""Tokens to vectors, and vectors back to logits over the vocabulary."""

from collections.abc import Callable

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from transformer_jax.nn.initializers import PAPER, Initializer
from transformer_jax.nn.linear import Linear, product
from transformer_jax.nn.mask import MASKED
from transformer_jax.parallel.axes import constrain

Logits = Callable[[Float[Array, "batch length d_model"]], Float[Array, "batch length rows"]]
"""From vectors to logits; `rows` is the padded vocabulary."""


def padded_vocabulary(vocab_size: int, multiple: int) -> int:
    """The number of rows that an embedding of `vocab_size` tokens has."""
    return -(-vocab_size // multiple) * multiple


def _make_logits(
    table: Float[Array, "..."], inputs: int, dtype: str, vocab_size: int, scale: float, soft_cap: float
) -> Logits:
    """The function to logits over a table whose dimension `inputs` is the model's.

    A table that devices shard is gathered here, once for all calls: not in each, and never the logits.
    """
    axes = ["vocab", "vocab"]
    axes[inputs] = "replicated"
    table = constrain(table, axes)

    def logits(x: Float[Array, "batch length d_model"]) -> Float[Array, "batch length rows"]:
        y = constrain(product(x, table, (inputs,), dtype, "float32"), ("batch", "length", "vocab"))
        y = y if scale == 1.0 else y * scale
        y = soft_cap * jnp.tanh(y / soft_cap) if soft_cap else y
        return y if y.shape[-1] == vocab_size else jnp.where(jnp.arange(y.shape[-1]) < vocab_size, y, MASKED)

    return logits


class Embedding(nnx.Module):
    """Token embeddings times sqrt(d_model) (Vaswani et al. 2017, section 3.4), drawn by `initializer`.

    The same matrix maps decoder outputs to logits (`make_logits`) where the output is tied. The table has a multiple of
    `vocab_multiple` rows, so that any mesh divides it; the rows that stand for no token are masked in the logits.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        *,
        scale: bool = True,
        vocab_multiple: int = 1,
        dtype: str = "float32",
        initializer: Initializer = PAPER,
        rngs: nnx.Rngs,
    ):
        rows = padded_vocabulary(vocab_size, vocab_multiple)
        table = initializer.table(rngs.params(), (rows, d_model), "tokens", d_model)
        self.table = nnx.Param(table, axes=("vocab", "embed"))
        self.vocab_size = vocab_size
        self.scale = d_model**0.5 if scale else 1.0
        self.dtype = dtype

    def __call__(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length d_model"]:
        # Whole rows: of parts of rows the compiler would look up the whole batch, and then share it out anew.
        table = constrain(self.table[...], ("vocab", "replicated"))
        return jnp.take(table, tokens, axis=0).astype(self.dtype) * self.scale

    def make_logits(self, *, scale: float = 1.0, soft_cap: float = 0.0) -> Logits:
        """The function from vectors to the float32 logits of their product with the transposed table, times `scale`.

        With a `soft_cap`, logits l become `cap * tanh(l / cap)` (Gemma 2, 2024, section 2).
        """
        return _make_logits(self.table[...], 1, self.dtype, self.vocab_size, scale, soft_cap)


class Output(nnx.Module):
    """An output projection with a matrix of its own, for models that do not tie it to the embedding."""

    def __init__(
        self,
        d_model: int,
        vocab_size: int,
        *,
        vocab_multiple: int = 1,
        dtype: str = "float32",
        initializer: Initializer = PAPER,
        rngs: nnx.Rngs,
    ):
        shape = (d_model,), (padded_vocabulary(vocab_size, vocab_multiple),)
        self.projection = Linear(
            *shape, ("embed", "vocab"), use_bias=False, dtype=dtype, draw=initializer.map, rngs=rngs
        )
        self.vocab_size = vocab_size

    def make_logits(self, *, scale: float = 1.0, soft_cap: float = 0.0) -> Logits:
        """The function from vectors to float32 logits, scaled and capped as those of an `Embedding`."""
        return _make_logits(self.projection.kernel[...], 0, self.projection.dtype, self.vocab_size, scale, soft_cap)
