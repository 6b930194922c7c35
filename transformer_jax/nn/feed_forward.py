"""The position-wise feed-forward network."""

import functools

import jax
from flax import nnx
from jaxtyping import PRNGKeyArray

from transformer_jax.nn.config import LayerConfig
from transformer_jax.nn.linear import Linear, dropout
from transformer_jax.nn.named import choose
from transformer_jax.nn.positions import Vectors
from transformer_jax.parallel.axes import constrain

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
}


class FeedForward(nnx.Module):
    """Position-wise feed-forward network (Vaswani et al. 2017, section 3.3): two linear maps, an activation between.

    A gated network has a second, multiplicative branch (Shazeer 2020, "GLU Variants").
    """

    def __init__(self, config: LayerConfig, *, rngs: nnx.Rngs):
        self.activation = choose("model.activation", config.activation, ACTIVATIONS)
        linear = functools.partial(Linear, use_bias=config.feed_forward_bias, dtype=config.dtype, rngs=rngs)
        inner = functools.partial(linear, (config.d_model,), (config.d_ff,), ("embed", "mlp"), draw=config.init.kernel)
        residual = functools.partial(config.init.kernel, role="residual")
        self.input = inner()
        self.gate = inner() if config.gated else None
        self.output = linear((config.d_ff,), (config.d_model,), ("mlp", "embed"), draw=residual)
        self.dropout = config.feed_forward_dropout

    def __call__(self, x: Vectors, *, key: PRNGKeyArray | None = None) -> Vectors:
        """`[batch, length, d_model]` to the same; `key` turns dropout on."""
        # The backward pass computes the activation again: what happens inside of a GELU is six times the memory.
        activation = jax.checkpoint(self.activation, prevent_cse=False)
        hidden = self.input(x)
        hidden = activation(hidden) if self.gate is None else activation(self.gate(x)) * hidden
        return self.output(dropout(constrain(hidden, ("batch", "length", "mlp")), self.dropout, key))
