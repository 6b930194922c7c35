"""A stack of layers: one period of layers whose parameters have a leading axis, run by a scan."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transformer_jax.nn.attention import Bias
from transformer_jax.nn.layer import LayerCache, LayerConfig, LayerKind, TransformerLayer, Vectors
from transformer_jax.nn.mask import EVERYTHING, AttentionMask
from transformer_jax.nn.positions import BIASES


class Intermediates(NamedTuple):
    """What happened inside a stack, layer by layer."""

    hidden: Float[Array, "layers batch length d_model"]
    """The output of each layer."""
    attention: dict[str, Float[Array, "layers batch heads length _"]]
    """The weights of `self_attention` and, in a decoder with a memory, of `cross_attention`."""


class StackCache(NamedTuple):
    """What the layers of a stack keep between tokens."""

    first: tuple[LayerCache, ...]
    layers: tuple[LayerCache, ...]
    """Of each layer of the period, with a leading axis."""
    last: tuple[LayerCache, ...]

    def take(self, rows: Int[Array, " rows"]) -> "StackCache":
        """The cache whose row i is this one's row `rows[i]`; a memory stays, shared by the rows of a beam."""
        groups = ([cache._replace(own=cache.own.take(rows)) for cache in group] for group in self)
        return StackCache(*map(tuple, groups))


class Stack(nnx.Module):
    """`num_layers` layers (Vaswani et al. 2017, figure 1) and, with `final_norm`, a norm behind the last.

    Layers whose kinds repeat are one period of `TransformerLayer`s (`layers`, `layers_1`, ...; mostly one layer) with a
    leading `layers` axis, so that compile time does not grow with depth. A first layer that is unlike the others
    (`first_0`) and what the last period lacks (`last_0`, ...) stand for themselves. `remat` recomputes a layer's
    activations in the backward pass instead of keeping them; `unroll` inlines the scan. `causal` says of relative
    positions that there is only a past.
    """

    def __init__(
        self,
        config: LayerConfig,
        num_layers: int,
        *,
        causal: bool = False,
        cross_attention: bool = False,
        final_norm: bool = False,
        remat: bool = False,
        unroll: bool = False,
        rngs: nnx.Rngs,
    ):
        if num_layers < 1:
            raise ValueError(f"a stack has at least one layer, not {num_layers}")
        kinds = config.kinds(num_layers)
        odd = 0 if config.first_attention_norm else 1
        period = len(config.pattern)
        self.repeats = (num_layers - odd) // period
        scanned = odd + self.repeats * period
        keys = jax.random.split(rngs.params(), num_layers)

        def make(kind: LayerKind, key: PRNGKeyArray) -> TransformerLayer:
            rngs = nnx.Rngs(params=key)
            return TransformerLayer(config, kind, cross_attention=cross_attention, num_layers=num_layers, rngs=rngs)

        self.names = Names(
            tuple(f"first_{i}" for i in range(odd)),
            tuple(f"layers_{i}" if i else "layers" for i in range(period if self.repeats else 0)),
            tuple(f"last_{i}" for i in range(num_layers - scanned)),
        )
        for i, name in enumerate(self.names.first):
            setattr(self, name, make(kinds[i], keys[i]))
        for i, name in enumerate(self.names.layers, odd):
            setattr(self, name, jax.vmap(lambda key, kind=kinds[i]: make(kind, key))(keys[i:scanned:period]))
        for i, name in enumerate(self.names.last, scanned):
            setattr(self, name, make(kinds[i], keys[i]))
        bias = BIASES.get(config.positions)
        self.position_bias = None if bias is None else bias(config.num_heads, causal=causal, rngs=rngs)
        self.final_norm = config.make_norm(config.d_model) if final_norm else None
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
        positions: Int[Array, "#batch length"] | None = None,
        key: PRNGKeyArray | None = None,
        intermediates: bool = False,
    ) -> Any:
        """The stack over whole sequences: `[batch, length, d_model]`, with `intermediates` also an `Intermediates`.

        `positions` default to 0, 1, 2, ...
        """
        bias = self._bias(x, positions)
        seen: dict[str, Any] = {"mask": mask, "memory_mask": memory_mask, "positions": positions, "bias": bias}

        def run(x: Vectors, layers: Any, keys: Any) -> tuple[Vectors, list[Intermediates]]:
            inside = []
            for i, layer in enumerate(layers):
                y = layer(x, memory, **seen, key=None if keys is None else keys[i])
                inside += [Intermediates(y, layer.attention_weights(x, memory, **seen))] if intermediates else []
                x = y
            return x, inside

        # Inside of a loop nothing can be merged with what is computed again, so that needs no barrier there.
        repeated = jax.checkpoint(run, prevent_cse=self.unroll) if self.remat else run
        run = jax.checkpoint(run) if self.remat else run
        first, scanned, last = self._groups()
        keys = [None] * 3 if key is None else self._split(key)
        x, before = run(x, first, keys[0])
        x, inside = self._scan(lambda x, group: repeated(x, *group), x, (scanned, keys[1]))
        x, after = run(x, last, keys[2])
        x = x if self.final_norm is None else self.final_norm(x)
        return (x, self._in_order(before, inside, after)) if intermediates else x

    def start_cache(
        self, batch: int, capacity: int, memory: Float[Array, "rows memory d_model"] | None = None
    ) -> StackCache:
        """Empty caches of all layers."""

        def start(layers: tuple[TransformerLayer, ...]) -> tuple[LayerCache, ...]:
            return tuple(layer.start_cache(batch, capacity, memory) for layer in layers)

        first, scanned, last = self._groups()
        return StackCache(start(first), jax.lax.map(start, scanned) if scanned else (), start(last))

    def extend(
        self,
        x: Vectors,
        cache: StackCache,
        *,
        positions: Int[Array, "batch length"],
        memory_mask: AttentionMask = EVERYTHING,
    ) -> tuple[Vectors, StackCache]:
        """The stack for `length` more tokens, given the cache of those before."""

        def run(x: Vectors, layers: Any, caches: Any, index: Array | None = None) -> tuple[Vectors, Any]:
            new = []
            for layer, kept in zip(layers, caches, strict=True):
                x, kept = layer.extend(
                    x,
                    kept,
                    positions=positions,
                    memory_mask=memory_mask,
                    position_bias=self.position_bias,
                    index=index,
                )
                new.append(kept)
            return x, tuple(new)

        def repeated(carry: Any, over: Any) -> tuple[Any, None]:
            x, own = carry
            layers, memories, index = over
            x, caches = run(x, layers, map(LayerCache, own, memories), index)
            return (x, tuple(cache.own for cache in caches)), None

        first, scanned, last = self._groups()
        x, before = run(x, first, cache.first)
        # The caches of all layers travel along and get a few rows each: as inputs and outputs of the loop they would be
        # copied whole.
        own, memories = tuple(kept.own for kept in cache.layers), tuple(kept.memory for kept in cache.layers)
        (x, own), _ = self._scan(repeated, (x, own), (scanned, memories, jnp.arange(self.repeats)))
        x, after = run(x, last, cache.last)
        inside = tuple(map(LayerCache, own, memories))
        return (x if self.final_norm is None else self.final_norm(x)), StackCache(before, inside, after)

    def _groups(self) -> Any:
        """The layers in front of the scan, of its period, and behind it."""
        return [tuple(getattr(self, name) for name in names) for names in self.names]

    def _scan(self, body: Any, x: Any, over: Any) -> tuple[Any, Any]:
        return jax.lax.scan(body, x, over, unroll=self.unroll) if self.repeats else (x, ())

    def _bias(self, x: Vectors, positions: Int[Array, "#batch length"] | None) -> Bias | None:
        """The bias of scores by distance, which all layers share."""
        if self.position_bias is None:
            return None
        positions = jnp.arange(x.shape[1], dtype=jnp.int32)[None] if positions is None else positions
        return self.position_bias(positions, positions)

    def _split(self, key: PRNGKeyArray) -> list[Any]:
        """A key for every layer, in the three groups."""
        first, period, _ = map(len, self.names)
        end = first + self.repeats * period
        keys = jax.random.split(key, self.num_layers)
        return [keys[:first], keys[first:end].reshape(self.repeats, period), keys[end:]]

    def _in_order(self, before: Any, inside: Any, after: Any) -> Intermediates:
        """The intermediates of all layers along one axis, from the first layer to the last."""
        scanned = [jax.tree.map(lambda array, i=i: array[i], layer) for i in range(self.repeats) for layer in inside]
        return jax.tree.map(lambda *layers: jnp.stack(layers), *before, *scanned, *after)


def layer_numbers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Int[np.ndarray, "*layers"]]:
    """The number, from 0, of the layer that a parameter belongs to; for parameters with a layers axis, of each.

    `shapes` has the parameters' shapes by name; those outside of stacks are left out. A layer has the same number
    however its stack is divided into first layers, periods and last ones.
    """
    found = {name: match for name in shapes if (match := LAYER.match(name))}
    numbers = {}
    for name, match in found.items():
        stack, group, place = match["stack"], match["group"], int(match["place"] or 0)
        groups = [(other, each) for other, each in found.items() if each["stack"] == stack]
        first = len({each["place"] for _, each in groups if each["group"] == "first"})
        period = len({each["place"] for _, each in groups if each["group"] == "layers"})
        repeats = next((shapes[other][0] for other, each in groups if each["group"] == "layers"), 0)
        begin = {"first": 0, "layers": first, "last": first + repeats * period}[group] + place
        numbers[name] = begin + period * np.arange(repeats) if group == "layers" else np.asarray(begin)
    return numbers


LAYER = re.compile(r"(?P<stack>.*/|)(?P<group>first|layers|last)(_(?P<place>\d+))?/")
"""The beginning of the names of a layer's parameters."""


class Names(NamedTuple):
    """The attributes of a stack that are layers."""

    first: tuple[str, ...]
    layers: tuple[str, ...]
    last: tuple[str, ...]
