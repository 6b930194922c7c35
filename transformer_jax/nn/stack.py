"""A stack of layers: one layer whose parameters have a leading axis, run by a scan."""

from typing import Any, NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transformer_jax.nn.layer import LayerCache, LayerConfig, TransformerLayer, Vectors
from transformer_jax.nn.mask import EVERYTHING, AttentionMask
from transformer_jax.nn.named import choose
from transformer_jax.nn.norm import NORMS


class Intermediates(NamedTuple):
    """What happened inside a stack, layer by layer."""

    hidden: Float[Array, "layers batch length d_model"]
    """The output of each layer."""
    attention: dict[str, Float[Array, "layers batch heads length _"]]
    """The weights of `self_attention` and, in a decoder with a memory, of `cross_attention`."""


class Stack(nnx.Module):
    """`num_layers` layers (Vaswani et al. 2017, figure 1) and, with `final_norm`, a norm behind the last.

    The layers are one `TransformerLayer` with a leading `layers` axis, so that compile time does not grow with depth.
    `remat` recomputes a layer's activations in the backward pass instead of keeping them; `unroll` inlines the scan.
    """

    def __init__(
        self,
        config: LayerConfig,
        num_layers: int,
        *,
        cross_attention: bool = False,
        final_norm: bool = False,
        remat: bool = False,
        unroll: bool = False,
        rngs: nnx.Rngs,
    ):
        if num_layers < 1:
            raise ValueError(f"a stack has at least one layer, not {num_layers}")
        keys = jax.random.split(rngs.params(), num_layers)
        self.layers = jax.vmap(
            lambda key: TransformerLayer(config, cross_attention=cross_attention, rngs=nnx.Rngs(params=key))
        )(keys)
        norm = choose("norm", config.norm, NORMS)
        self.final_norm = norm(config.d_model, epsilon=config.norm_epsilon) if final_norm else None
        self.num_layers = num_layers
        self.remat = remat
        self.unroll = unroll

    def __call__(
        self,
        x: Vectors,
        memory: Float[Array, "batch memory d_model"] | None = None,
        *,
        mask: AttentionMask = EVERYTHING,
        memory_mask: AttentionMask = EVERYTHING,
        key: PRNGKeyArray | None = None,
        intermediates: bool = False,
    ) -> Any:
        """The stack over whole sequences: `[batch, length, d_model]`, with `intermediates` also an `Intermediates`."""

        def body(x: Vectors, layer_and_key: Any) -> tuple[Vectors, Any]:
            layer, layer_key = layer_and_key
            y = layer(x, memory, mask=mask, memory_mask=memory_mask, key=layer_key)
            if not intermediates:
                return y, None
            return y, Intermediates(y, layer.attention_weights(x, memory, mask=mask, memory_mask=memory_mask))

        keys = None if key is None else jax.random.split(key, self.num_layers)
        x, inside = jax.lax.scan(
            jax.checkpoint(body) if self.remat else body, x, (self.layers, keys), unroll=self.unroll
        )
        x = x if self.final_norm is None else self.final_norm(x)
        return (x, inside) if intermediates else x

    def start_cache(
        self, batch: int, capacity: int, memory: Float[Array, "rows memory d_model"] | None = None
    ) -> LayerCache:
        """Empty caches of all layers, stacked along a leading axis."""
        return jax.lax.map(lambda layer: layer.start_cache(batch, capacity, memory), self.layers)

    def extend(
        self,
        x: Vectors,
        cache: LayerCache,
        *,
        positions: Int[Array, "batch length"],
        memory_mask: AttentionMask = EVERYTHING,
    ) -> tuple[Vectors, LayerCache]:
        """The stack for `length` more tokens, given the cache of those before."""

        def body(x: Vectors, layer_and_cache: Any) -> tuple[Vectors, LayerCache]:
            layer, layer_cache = layer_and_cache
            return layer.extend(x, layer_cache, positions=positions, memory_mask=memory_mask)

        x, cache = jax.lax.scan(body, x, (self.layers, cache), unroll=self.unroll)
        return (x if self.final_norm is None else self.final_norm(x)), cache
