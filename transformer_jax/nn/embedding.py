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


class Embedding(nnx.Module):
    """Token embeddings times sqrt(d_model) (Vaswani et al. 2017, section 3.4), drawn by `initializer`.

    The same matrix maps vectors to logits (`make_logits`) where the output is tied. The table has a multiple of
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

    def weights(self) -> tuple[Float[Array, "rows d_model"], int]:
        """The matrix to logits, and which dimension is the model's width."""
        return self.table[...], 1


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
            *shape, ("embed", "vocab"), use_bias=False, dtype=dtype, draw=initializer.kernel, rngs=rngs
        )
        self.vocab_size = vocab_size

        self.dtype = dtype

    def weights(self) -> tuple[Float[Array, "d_model rows"], int]:
        """The matrix to logits, and which dimension is the model's width."""
        return self.projection.kernel[...], 0


def make_logits(
    output: Embedding | Output, *, scale: float = 1.0, soft_cap: float = 0.0, bias: Float[Array, " rows"] | None = None
) -> Logits:
    """The function from vectors to float32 logits: `scale` times the products with a matrix, plus a bias.

    With a `soft_cap`, logits l become `cap * tanh(l / cap)` (Gemma 2, 2024, section 2). A matrix that is sharded by the
    model's width is gathered here, once for all calls, so that logits need no sum over devices.
    """
    matrix, inputs = output.weights()
    axes = ["vocab", "vocab"]
    axes[inputs] = "replicated"
    matrix = constrain(matrix, axes)

    def logits(x: Float[Array, "batch length d_model"]) -> Float[Array, "batch length rows"]:
        y = constrain(product(x, matrix, (inputs,), output.dtype, "float32"), ("batch", "length", "vocab"))
        y = y if scale == 1.0 else y * scale
        y = y if bias is None else y + bias.reshape(1, 1, -1)
        y = soft_cap * jnp.tanh(y / soft_cap) if soft_cap else y
        rows = y.shape[-1]
        return y if rows == output.vocab_size else jnp.where(jnp.arange(rows) < output.vocab_size, y, MASKED)

    return logits
