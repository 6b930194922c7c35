"""A stack of layers: layers of equal kinds share arrays with a leading axis, and a scan runs them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transformer_jax.nn.cache import KeysValues, KeyValueCache, Rows
from transformer_jax.nn.config import LayerConfig, LayerKind
from transformer_jax.nn.layer import TransformerLayer
from transformer_jax.nn.mask import EVERYTHING, AttentionMask
from transformer_jax.nn.positions import Position, PositionIds, PositionParameters, TokenPositions, Vectors


class Intermediates(NamedTuple):
    """What happened inside a stack, layer by layer."""

    hidden: Float[Array, "layers batch length d_model"]
    """The output of each layer."""
    attention: dict[str, Float[Array, "layers batch heads length _"]]
    """The weights of `self_attention` and, in a decoder with a memory, of `cross_attention`."""


class StackCache(NamedTuple):
    """The caches of a stack, by the names of its layers; those of scanned layers have a leading axis."""

    tokens: dict[str, KeyValueCache]
    """Keys and values of the tokens so far."""
    memory: dict[str, KeysValues]
    """Keys and values of the memory, computed once."""

    def take(self, rows: Int[Array, " rows"]) -> "StackCache":
        """The cache whose row i is this one's row `rows[i]`; the memory stays, shared by the rows of a beam."""
        return self._replace(tokens={name: cache.take(rows) for name, cache in self.tokens.items()})


class Stack(nnx.Module):
    """The layers of a configuration (Vaswani et al. 2017, figure 1), held in as few arrays as their kinds allow.

    layers, layers_1, ...  one period of the pattern, mostly one layer: a scan runs it, so that compile time does not
                           grow with depth; its parameters have a leading axis `layers`
    first_0                a first layer that is unlike the others
    last_0, ...            the layers behind the last whole period
    shared                 with `shared_layers`, the one layer that runs `num_layers` times (Lan et al. 2020, "ALBERT")

    `causal` tells kinds of position that tokens see only the past. `memory_dim` is the width of a memory where it is
    not the model's. `layer` is the class of the layers. Raises ValueError for a configuration that cannot be built.
    """

    def __init__(
        self,
        config: LayerConfig,
        *,
        causal: bool = False,
        cross_attention: bool = False,
        memory_dim: int | None = None,
        layer: type[TransformerLayer] = TransformerLayer,
        rngs: nnx.Rngs,
    ):
        config.check()
        if config.parallel and cross_attention:
            raise ValueError("model.parallel has no place for attention to a memory; leave it to decoders without one")
        kinds, number = config.kinds(), config.num_layers
        first = 0 if config.first_attention_norm or config.shared_layers else 1
        period = 1 if config.shared_layers else len(config.pattern)
        end = number - (number - first) % period
        names = ["shared" if config.shared_layers else "layers", *(f"layers_{i}" for i in range(1, period))]
        self.first = tuple((f"first_{i}", range(i, i + 1)) for i in range(first))
        self.scanned = tuple((name, range(first + i, end, period)) for i, name in enumerate(names) if end > first)
        self.last = tuple((f"last_{i - end}", range(i, i + 1)) for i in range(end, number))
        keys = jax.random.split(rngs.params(), number)
        for name, numbers in (*self.first, *self.scanned, *self.last):

            def make(key: PRNGKeyArray, kind: LayerKind = kinds[numbers[0]]) -> TransformerLayer:
                of_memory: dict[str, Any] = {"cross_attention": cross_attention, "memory_dim": memory_dim}
                return layer(config, kind, **of_memory, rngs=nnx.Rngs(params=key))

            stacked = (name, numbers) in self.scanned and not config.shared_layers
            setattr(self, name, jax.vmap(make)(_every(keys, numbers)) if stacked else make(keys[numbers[0]]))
        self.num_layers, self.shared_layers = number, config.shared_layers
        self.sizes = config.sizes(causal=causal)
        self.positions = tuple(config.layer_positions().items())
        # Local layers have the positions of the others unless they have their own.
        used = "global" in config.pattern or ("local" in config.pattern and config.local_positions is None)
        self.position_bias = self._parameters(config.positions if used else None, config, rngs)
        self.local_position_bias = self._parameters(config.local_positions, config, rngs)
        self.final_norm = config.make_norm(config.d_model) if config.final_norm else None
        self.remat, self.unroll = config.remat, config.unroll
        self.stochastic_depth, self.layer_drop = config.stochastic_depth, config.layer_drop

    def __call__(
        self,
        x: Vectors,
        memory: Float[Array, "rows memory memory_dim"] | None = None,
        *,
        mask: AttentionMask = EVERYTHING,
        memory_mask: AttentionMask = EVERYTHING,
        positions: PositionIds | None = None,
        cache: StackCache | None = None,
        key: PRNGKeyArray | None = None,
        intermediates: bool = False,
    ) -> tuple[Vectors, StackCache | None, Intermediates | None]:
        """The stack's output, its cache, and with `intermediates` what happened inside.

        `positions` default to 0, 1, 2, ... With a `cache` the tokens of `x` follow those in it, which they see through
        a causal `mask`; `positions` have to be given, and a memory is read from the cache. `key` turns dropout on.
        """
        positions_of = self._token_positions(x, positions, cache is not None)

        def run(x: Vectors, layers: Any, tokens: Any, memories: Any, keys: Any) -> tuple[Vectors, Any, Any]:
            caches, inside = {}, {}
            for name, layer in layers.items():
                key, drop = keys.get(name, (None, None))
                y, caches[name], weights = layer(
                    x,
                    memories.get(name, memory),
                    mask=mask,
                    memory_mask=memory_mask,
                    positions=positions_of[layer.kind.name],
                    cache=tokens.get(name),
                    key=key,
                    drop=drop,
                    intermediates=intermediates,
                )
                if key is not None and self.layer_drop:
                    # The layer splits its key into the numbers 0 to 4.
                    y = jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 5), self.layer_drop), x, y)
                x = y
                inside[name] = Intermediates(x, weights) if intermediates else None
            return x, caches if tokens else {}, inside

        # Inside a loop nothing can be merged with what is recomputed, so that needs no barrier there.
        repeated = jax.checkpoint(run, prevent_cse=self.unroll) if self.remat else run
        run = jax.checkpoint(run) if self.remat else run
        # The random draws of each layer: a key, and how probably a row leaves a sub-layer out.
        rates = jnp.linspace(self.stochastic_depth, 0, self.num_layers)[::-1] if self.stochastic_depth else None
        keys = None if key is None else (jax.random.split(key, self.num_layers), rates)
        first, scanned, last = (self._group(group, cache, keys) for group in (self.first, self.scanned, self.last))
        layers, tokens, *others = scanned
        shared = layers if self.shared_layers else None

        def period(carry: Any, over: Any) -> tuple[Any, Any]:
            (x, tokens), (layers, memories, keys, index) = carry, over
            tokens = {name: cache._replace(index=index) for name, cache in tokens.items()}
            x, tokens, inside = repeated(x, shared or layers, tokens, memories, keys)
            return (x, {name: cache._replace(index=None) for name, cache in tokens.items()}), inside

        x, before, inside = run(x, *first)
        if self.scanned:
            # The caches of all layers travel along and get a few rows each: as inputs and outputs of the loop they
            # would be copied whole.
            over = ({} if shared else layers, *others, jnp.arange(len(self.scanned[0][1])))
            (x, tokens), inside_scanned = jax.lax.scan(period, (x, tokens), over, unroll=self.unroll)
            inside |= inside_scanned
        x, after, inside_last = run(x, *last)
        x = x if self.final_norm is None else self.final_norm(x)
        cache = None if cache is None else cache._replace(tokens=before | tokens | after)
        return x, cache, self._in_order(inside | inside_last) if intermediates else None

    def start_cache(
        self, batch: Rows, capacity: int, memory: Float[Array, "rows memory memory_dim"] | None = None
    ) -> StackCache:
        """Empty caches of all layers, with the keys and values of a memory."""

        def start(layer: TransformerLayer) -> tuple[KeyValueCache, KeysValues | None]:
            cross = layer.cross_attention
            read = None if cross is None or memory is None else cross.keys_values(memory)
            return layer.start_cache(batch, capacity), read

        caches = {name: start(getattr(self, name)) for name, _ in (*self.first, *self.last)}
        for name, numbers in self.scanned:
            layer = getattr(self, name)
            if self.shared_layers:
                caches[name] = jax.lax.map(lambda _, layer=layer: start(layer), jnp.arange(len(numbers)))
            else:
                caches[name] = jax.lax.map(start, layer)
        tokens = {name: tokens for name, (tokens, _) in caches.items()}
        return StackCache(tokens, {name: read for name, (_, read) in caches.items() if read is not None})

    def _group(self, group: Any, cache: StackCache | None, keys: Any) -> tuple[Any, Any, Any, Any]:
        """The layers of a group by name, and their caches, memories, and keys with rates."""
        tokens, memories = ({}, {}) if cache is None else cache
        names = [name for name, _ in group]
        some = {} if keys is None else dict(group)
        split = {name: jax.tree.map(lambda of, n=numbers: _every(of, n), keys) for name, numbers in some.items()}
        if group != self.scanned:
            split = {name: jax.tree.map(lambda of: of[0], of) for name, of in split.items()}
        layers = {name: getattr(self, name) for name in names}
        caches, read = ({name: table[name] for name in names if name in table} for table in (tokens, memories))
        return layers, caches, read, split

    def _parameters(self, kind: Position | None, config: LayerConfig, rngs: nnx.Rngs) -> PositionParameters | None:
        if kind is None:
            return None
        return PositionParameters.of(kind.attention_parameters(self.sizes, config.init, rngs))

    def _token_positions(self, x: Vectors, ids: PositionIds | None, cached: bool) -> dict[str, TokenPositions]:
        """The positions of a call's tokens for each kind of layer, computed once."""
        if ids is None:
            if cached:
                raise ValueError("a stack with a cache needs to know where its tokens stand: give positions")
            ids = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
        held = {"local": self.local_position_bias or self.position_bias, "global": self.position_bias}
        return {
            name: TokenPositions(kind, ids, self.sizes, PositionParameters.arrays(held.get(name)), cached=cached)
            for name, kind in self.positions
        }

    def _in_order(self, inside: dict[str, Any]) -> Intermediates:
        """The intermediates of all layers along one axis, from the first layer to the last."""
        layers = {numbers[0]: inside[name] for name, numbers in (*self.first, *self.last)}
        for name, numbers in self.scanned:
            for place, number in enumerate(numbers):
                layers[number] = jax.tree.map(lambda array, i=place: array[i], inside[name])
        return jax.tree.map(lambda *layers: jnp.stack(layers), *(layers[i] for i in range(self.num_layers)))


def _every(keys: Array, numbers: range) -> Array:
    """The keys of the layers with these numbers."""
    return keys[numbers.start : numbers.stop : numbers.step]
