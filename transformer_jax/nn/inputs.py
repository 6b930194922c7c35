"""Inputs: from the columns of a batch to the vectors and lengths that a stack takes."""

from functools import partial

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int, PRNGKeyArray

from transformer_jax.nn.config import LayerConfig
from transformer_jax.nn.embedding import Embedding
from transformer_jax.nn.linear import Linear, dropout
from transformer_jax.nn.positions import PositionIds, PositionParameters, Sizes, Vectors
from transformer_jax.parallel.axes import constrain

Tokens = Int[Array, "batch length"]
Lengths = Int[Array, " batch"]


class TokenInput(nnx.Module):
    """The sum of token embeddings, positions and token types; then, each where it is wanted, a norm, dropout, a map.

    The embedding is an argument of the call, because others (the output, another stack) share it. The linear map to
    the model's width follows where embeddings are narrower (Lan et al. 2020, "ALBERT", section 3.1).
    """

    def __init__(self, config: LayerConfig, sizes: Sizes, *, norm: bool = False, token_types: int = 0, rngs: nnx.Rngs):
        width = sizes.d_model
        self.kind = config.positions
        self.positions = PositionParameters.of(self.kind.input_parameters(sizes, config.init, rngs))
        kinds = config.init.table(rngs.params(), (token_types, width), "token_types", width) if token_types else None
        self.token_types = None if kinds is None else nnx.Param(kinds, axes=("token_types", "embed"))
        self.norm = config.make_norm(width) if norm else None
        shape = ((width,), (config.d_model,), ("mlp", "embed"))
        linear = partial(Linear, *shape, dtype=config.dtype, draw=config.init.kernel, rngs=rngs)
        self.projection = None if width == config.d_model else linear()
        self.dropout = config.dropout

    def __call__(
        self,
        tokens: Tokens,
        embedding: Embedding,
        *,
        lengths: Lengths | None = None,
        positions: PositionIds | None = None,
        token_types: Tokens | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Vectors, Lengths | None]:
        """Vectors of tokens, and the lengths of their rows without padding (None: all), as a stack takes them.

        `positions` default to 0, 1, 2, ..., `token_types` to 0; `key` turns dropout on.
        """
        x = embedding(tokens)
        ids = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] if positions is None else positions
        x = self.kind.add(x, ids, PositionParameters.arrays(self.positions))
        if self.token_types is not None:
            kinds = jnp.zeros_like(tokens) if token_types is None else token_types
            table = constrain(self.token_types[...], ("token_types", "replicated"))
            x = x + jnp.take(table, kinds, axis=0, mode="clip").astype(x.dtype)
        x = x if self.norm is None else self.norm(x)
        x = dropout(constrain(x, ("batch", "length", "embed")), self.dropout, key)
        return x if self.projection is None else self.projection(x), lengths
