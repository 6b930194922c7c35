"""What stands in front of a stack: from the columns of a batch to vectors, and the lengths that are left of them."""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int, PRNGKeyArray

from transformer_jax.nn.embedding import Embedding
from transformer_jax.nn.initializers import Initializer
from transformer_jax.nn.layer import LayerConfig
from transformer_jax.nn.linear import Linear, dropout
from transformer_jax.nn.positions import Places, Sizes, Vectors, arrays, hold
from transformer_jax.parallel.axes import constrain

Tokens = Int[Array, "batch length"]
Lengths = Int[Array, " batch"]


class Embedded(NamedTuple):
    """An input as a stack takes it."""

    vectors: Vectors
    lengths: Lengths | None
    """Real vectors of each row; None: all."""


class TokenInput(nnx.Module):
    """Token embeddings, positions and, with `token_types`, kinds of tokens, added; a norm; dropout; a linear map.

    The token table is given to each call, because others (the output, another stack) use it too. The linear map is
    there where the table is narrower than the model (Lan et al. 2020, "ALBERT", section 3.1).
    """

    def __init__(
        self,
        config: LayerConfig,
        sizes: Sizes,
        *,
        norm: bool = False,
        token_types: int = 0,
        rngs: nnx.Rngs,
    ):
        initializer, width = Initializer(config.initializer), sizes.d_model
        self.kind = config.positions
        self.positions = hold(self.kind.input_parameters(sizes, initializer, rngs))
        kinds = initializer.table(rngs.params(), (token_types, width), "token_types", width) if token_types else None
        self.token_types = None if kinds is None else nnx.Param(kinds, axes=("token_types", "embed"))
        self.norm = config.make_norm(width) if norm else None
        shape = ((width,), (config.d_model,), ("mlp", "embed"))
        linear = partial(Linear, *shape, dtype=config.dtype, draw=initializer.map, rngs=rngs)
        self.projection = None if width == config.d_model else linear()
        self.dropout = config.dropout

    def __call__(
        self,
        tokens: Tokens,
        embedding: Embedding,
        *,
        lengths: Lengths | None = None,
        positions: Places | None = None,
        token_types: Tokens | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Embedded:
        """Vectors of tokens at `positions` (default 0, 1, 2, ...); `token_types` default to 0. `key`: dropout."""
        x = embedding(tokens)
        places = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None] if positions is None else positions
        x = self.kind.add(x, places, arrays(self.positions))
        if self.token_types is not None:
            kinds = jnp.zeros_like(tokens) if token_types is None else token_types
            table = constrain(self.token_types[...], ("token_types", "replicated"))
            x = x + jnp.take(table, kinds, axis=0).astype(x.dtype)
        x = x if self.norm is None else self.norm(x)
        x = dropout(constrain(x, ("batch", "length", "embed")), self.dropout, key)
        return Embedded(x if self.projection is None else self.projection(x), lengths)
