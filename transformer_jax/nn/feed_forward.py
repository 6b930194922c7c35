"""The position-wise feed-forward network."""

import functools

import jax
from flax import nnx
from jaxtyping import Array, Float

from transformer_jax.nn.initializers import PAPER, Initializer
from transformer_jax.nn.linear import Linear
from transformer_jax.nn.named import choose
from transformer_jax.parallel.axes import constrain

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
}


class FeedForward(nnx.Module):
    """Position-wise feed-forward network (Vaswani et al. 2017, section 3.3): two linear maps, an activation between.

    With `gated=True` the first map has a second, multiplicative branch (Shazeer 2020, "GLU Variants").
    Raises ValueError for an unknown activation.
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        activation: str = "relu",
        gated: bool = False,
        use_bias: bool = True,
        dtype: str = "float32",
        initializer: Initializer = PAPER,
        rngs: nnx.Rngs,
    ):
        self.activation = choose("activation", activation, ACTIVATIONS)
        linear = functools.partial(Linear, use_bias=use_bias, dtype=dtype, draw=initializer.map, rngs=rngs)
        residual = functools.partial(initializer.map, role="residual")
        self.input = linear((d_model,), (d_ff,), ("embed", "mlp"))
        self.gate = linear((d_model,), (d_ff,), ("embed", "mlp")) if gated else None
        self.output = linear((d_ff,), (d_model,), ("mlp", "embed"), draw=residual)

    def __call__(self, x: Float[Array, "batch length d_model"]) -> Float[Array, "batch length d_model"]:
        # The backward pass computes the activation again: what happens inside of a GELU is six times the memory.
        activation = jax.checkpoint(self.activation, prevent_cse=False)
        hidden = self.input(x)
        hidden = activation(hidden) if self.gate is None else activation(self.gate(x)) * hidden
        return self.output(constrain(hidden, ("batch", "length", "mlp")))
