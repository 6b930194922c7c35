"""A stack of layers: one period of layers whose parameters have a leading axis, run by a scan."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transformer_jax.nn.initializers import Initializer
from transformer_jax.nn.layer import LayerCache, LayerConfig, TransformerLayer
from transformer_jax.nn.mask import EVERYTHING, AttentionMask
from transformer_jax.nn.positions import Placed, Places, Position, PositionParameters, Vectors, arrays, hold


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


class Groups(NamedTuple):
    """One thing for each layer of a stack, or the names of the attributes that are layers, as they are run."""

    first: Any
    layers: Any
    """Those of a period."""
    last: Any


class Stack(nnx.Module):
    """`num_layers` layers (Vaswani et al. 2017, figure 1) and, with `final_norm`, a norm behind the last.

    Layers whose kinds repeat are one period of layers (`layers`, `layers_1`, ...; mostly one layer) with a leading
    `layers` axis, so that compile time does not grow with depth. A first layer that is unlike the others (`first_0`)
    and what the last period lacks (`last_0`, ...) stand for themselves. With `shared_layers` one layer (`shared`) is
    run `num_layers` times (Lan et al. 2020, "ALBERT"). `remat` recomputes a layer's activations in the backward pass
    instead of storing them; `unroll` inlines the scan. `causal` says of relative positions that there is only a past.
    Raises ValueError for a stack without layers and for sizes that do not fit.
    """

    def __init__(
        self,
        config: LayerConfig,
        num_layers: int,
        *,
        causal: bool = False,
        cross_attention: bool = False,
        final_norm: bool = False,
        shared_layers: bool = False,
        remat: bool = False,
        unroll: bool = False,
        rngs: nnx.Rngs,
    ):
        if num_layers < 1:
            raise ValueError(f"a stack has at least one layer, not {num_layers}")
        kinds = config.kinds(num_layers)
        if shared_layers and len(set(kinds)) > 1:
            raise ValueError("model.shared_layers needs layers that are all of one kind")
        if config.parallel and cross_attention:
            raise ValueError("model.parallel has no place for attention to a memory; leave it to decoders without one")
        odd = 0 if config.first_attention_norm or shared_layers else 1
        period = len(config.pattern)
        self.repeats = num_layers if shared_layers else (num_layers - odd) // period
        scanned = num_layers if shared_layers else odd + self.repeats * period
        keys = jax.random.split(rngs.params(), num_layers)

        def make(place: int, key: PRNGKeyArray) -> TransformerLayer:
            made = {"cross_attention": cross_attention, "num_layers": num_layers, "rngs": nnx.Rngs(params=key)}
            return config.make_layer(kinds[place], **made)

        self.shared_layers = shared_layers
        self.names = Groups(
            tuple(f"first_{i}" for i in range(odd)),
            ("shared",) if shared_layers else tuple(f"layers_{i}" if i else "layers" for i in range(period)),
            tuple(f"last_{i}" for i in range(num_layers - scanned)),
        )
        if not self.repeats:
            self.names = self.names._replace(layers=())
        for i, name in enumerate(self.names.first):
            setattr(self, name, make(i, keys[i]))
        for i, name in enumerate(self.names.layers, odd):
            if shared_layers:
                setattr(self, name, make(i, keys[i]))
            else:
                setattr(self, name, jax.vmap(lambda key, i=i: make(i, key))(keys[i:scanned:period]))
        for i, name in enumerate(self.names.last, scanned):
            setattr(self, name, make(i, keys[i]))
        self.sizes = config.sizes(causal=causal)
        self.positions = tuple(config.layer_positions().items())
        self.num_layers = num_layers
        # Local layers have the positions of the others unless they have their own.
        used = "global" in config.pattern or ("local" in config.pattern and config.local_positions is None)
        self.position_bias = self._hold(config.positions if used else None, config, rngs)
        self.local_position_bias = self._hold(config.local_positions, config, rngs)
        self.final_norm = config.make_norm(config.d_model) if final_norm else None
        self.remat = remat
        self.unroll = unroll

    def __call__(
        self,
        x: Vectors,
        memory: Float[Array, "rows memory d_model"] | None = None,
        *,
        mask: AttentionMask = EVERYTHING,
        memory_mask: AttentionMask = EVERYTHING,
        positions: Places | None = None,
        cache: StackCache | None = None,
        key: PRNGKeyArray | None = None,
        intermediates: bool = False,
    ) -> tuple[Vectors, StackCache | None, Intermediates | None]:
        """The stack's output, its cache, and with `intermediates` what happened inside.

        `positions` default to 0, 1, 2, ... With a `cache` the tokens of `x` follow those in it, which they see through
        a causal `mask`, and `positions` have to be given. `key` turns dropout on.
        """
        placed = self._place(x, positions, cache is not None)

        def run(x: Vectors, layers: Any, caches: Any, keys: Any) -> tuple[Vectors, Any, list[Any]]:
            kept, inside = [], []
            for i, layer in enumerate(layers):
                x, cache, weights = layer(
                    x,
                    memory,
                    mask=mask,
                    memory_mask=memory_mask,
                    placed=placed[layer.kind.name],
                    cache=None if caches is None else caches[i],
                    key=None if keys is None else keys[i],
                    intermediates=intermediates,
                )
                kept.append(cache)
                inside += [Intermediates(x, weights)] if intermediates else []
            return x, None if caches is None else tuple(kept), inside

        # Inside a loop nothing can be merged with what is recomputed, so that needs no barrier there.
        repeated = jax.checkpoint(run, prevent_cse=self.unroll) if self.remat else run
        run = jax.checkpoint(run) if self.remat else run

        def period(carry: Any, over: Any) -> tuple[Any, list[Any]]:
            x, own = carry
            layers, memories, keys, index = over
            layers = scanned if self.shared_layers else layers
            caches = None
            if own is not None:
                caches = [LayerCache(c._replace(index=index), m) for c, m in zip(own, memories, strict=True)]
            x, caches, inside = repeated(x, layers, caches, keys)
            return (x, None if caches is None else tuple(c.own._replace(index=None) for c in caches)), inside

        first, scanned, last = self._layers()
        keys = Groups(None, None, None) if key is None else self._split(key)
        caches = Groups(None, None, None) if cache is None else Groups(*cache)
        x, before, inside_first = run(x, first, caches.first, keys.first)
        inside, own, memories = [], None, None
        if self.repeats:
            # The caches of all layers travel along and get a few rows each: as inputs and outputs of the loop they
            # would be copied whole.
            if caches.layers is not None:
                own, memories = ([c.own for c in caches.layers], [c.memory for c in caches.layers])
                own = tuple(own)
            over = (None if self.shared_layers else scanned, memories, keys.layers, jnp.arange(self.repeats))
            (x, own), inside = jax.lax.scan(period, (x, own), over, unroll=self.unroll)
        x, after, inside_last = run(x, last, caches.last, keys.last)
        x = x if self.final_norm is None else self.final_norm(x)
        if cache is not None:
            kept = () if own is None else tuple(map(LayerCache, own, memories or ()))
            cache = StackCache(before, kept, after)
        return x, cache, self._in_order(inside_first, inside, inside_last) if intermediates else None

    def start_cache(
        self, batch: int, capacity: int, memory: Float[Array, "rows memory d_model"] | None = None
    ) -> StackCache:
        """Empty caches of all layers, with the keys and values of a memory."""

        def start(layers: tuple[TransformerLayer, ...]) -> tuple[LayerCache, ...]:
            return tuple(layer.start_cache(batch, capacity, memory) for layer in layers)

        first, scanned, last = self._layers()
        if self.shared_layers:
            copies = jax.lax.map(lambda _: start(scanned), jnp.arange(self.repeats))
        else:
            copies = jax.lax.map(start, scanned) if scanned else ()
        return StackCache(start(first), copies, start(last))

    def _layers(self) -> Groups:
        """The layers in front of the scan, of its period, and behind it."""
        return Groups(*(tuple(getattr(self, name) for name in names) for names in self.names))

    def _hold(self, position: Position | None, config: LayerConfig, rngs: nnx.Rngs) -> PositionParameters | None:
        if position is None:
            return None
        initializer = Initializer(config.initializer, self.num_layers)
        return hold(position.attention_parameters(self.sizes, initializer, rngs))

    def _place(self, x: Vectors, places: Places | None, cached: bool) -> dict[str, Placed]:
        """Where the tokens of a call stand, for each kind of layer, computed once."""
        if places is None:
            if cached:
                raise ValueError("a stack with a cache needs to know where its tokens stand: give positions")
            places = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
        held = {"local": self.local_position_bias or self.position_bias, "global": self.position_bias}
        return {
            name: Placed(position, places, self.sizes, arrays(held.get(name)), cached=cached)
            for name, position in self.positions
        }

    def _split(self, key: PRNGKeyArray) -> Groups:
        """A key for every layer."""
        first, period, _ = map(len, self.names)
        end = first + self.repeats * period
        keys = jax.random.split(key, self.num_layers)
        return Groups(keys[:first], keys[first:end].reshape(self.repeats, period), keys[end:])

    def _in_order(self, first: Any, inside: Any, last: Any) -> Intermediates:
        """The intermediates of all layers along one axis, from the first layer to the last."""
        scanned = [jax.tree.map(lambda array, i=i: array[i], layer) for i in range(self.repeats) for layer in inside]
        return jax.tree.map(lambda *layers: jnp.stack(layers), *first, *scanned, *last)
