"""What turns an encoder's vectors into predictions."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from transformer_jax.models.config import Encoded, TransformerConfig
from transformer_jax.nn.embedding import Embedding, make_logits
from transformer_jax.nn.feed_forward import ACTIVATIONS
from transformer_jax.nn.inputs import Lengths
from transformer_jax.nn.linear import Linear
from transformer_jax.nn.named import choose


def mean_vector(
    x: Float[Array, "batch length d_model"], lengths: Lengths | None = None
) -> Float[Array, "batch d_model"]:
    """The mean of the first `lengths` vectors of each row, by default of all, in float32."""
    lengths = jnp.full(x.shape[:1], x.shape[1]) if lengths is None else lengths
    real = (jnp.arange(x.shape[1])[None] < lengths[:, None])[:, :, None]
    return jnp.sum(x.astype(jnp.float32) * real, axis=1) / jnp.maximum(lengths, 1)[:, None]


class LanguageModelHead(nnx.Module):
    """Logits of the tokens themselves, for masked language modelling (Devlin et al. 2019, section 3.1).

    A linear map, the layers' activation, a norm, then the product with the tied embedding and a bias for each token.
    """

    def __init__(self, config: TransformerConfig, rows: int, *, use_bias: bool, rngs: nnx.Rngs):
        width = config.embedding_width
        shape = ((config.d_model,), (width,), ("embed", "mlp"))
        self.transform = Linear(*shape, use_bias=use_bias, dtype=config.dtype, draw=config.draw.map, rngs=rngs)
        self.activation = choose("activation", config.activation, ACTIVATIONS)
        self.norm = config.make_norm(width)
        self.bias = nnx.Param(jnp.zeros(rows), axes=("vocab",))

    def __call__(
        self, x: Float[Array, "batch length d_model"], embedding: Embedding
    ) -> Float[Array, "batch length rows"]:
        x = self.norm(self.activation(self.transform(x)))
        return make_logits(embedding, bias=self.bias[...])(x)


POOLER_ACTIVATIONS = {"tanh": jnp.tanh, **ACTIVATIONS}


class Pooler(nnx.Module):
    """One vector for a sequence: tanh of a linear map of its first vector (Devlin et al. 2019), or of the mean.

    `pooling` is first, mean, or empty for the same of every vector by itself. Raises ValueError for an unknown
    `activation`.
    """

    def __init__(
        self,
        config: TransformerConfig,
        pooling: str,
        *,
        activation: str = "tanh",
        norm: bool = False,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        d = config.d_model
        shape = ((d,), (d,), ("embed", "mlp"))
        self.transform = Linear(*shape, use_bias=use_bias, dtype=config.dtype, draw=config.draw.map, rngs=rngs)
        self.activation = choose("activation", activation, POOLER_ACTIVATIONS)
        self.norm = config.make_norm(d) if norm else None
        self.pooling = pooling

    def __call__(self, encoded: Encoded) -> Float[Array, "batch *length d_model"]:
        x, lengths, _ = encoded
        if self.pooling:
            x = x[:, 0] if self.pooling == "first" else mean_vector(x, lengths)
        x = self.activation(self.transform(x))
        return x if self.norm is None else self.norm(x)
