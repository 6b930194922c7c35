"""Optimizers and learning-rate schedules.

An optimizer works on the flat dictionary of named parameters and decides by their axis names, never by array rank:
a stack's leading `layers` axis counts for none of them.
"""

import fnmatch
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from annotated_types import Ge, Gt, Le, Lt
from optax import contrib

from transformer_jax.data.fields import check_ranges
from transformer_jax.nn.named import choose
from transformer_jax.nn.parameters import matching
from transformer_jax.training.lora import LoraConfig, adapted, factor_names
from transformer_jax.training.moving_average import with_moving_average

Axes = dict[str, tuple[str, ...]]
"""Logical axes of every parameter by name (`parameter_axes`)."""
INPUT = re.compile("embedding|source_embedding|(encoder|decoder)_input/|.*/(local_)?position_bias/")
"""Matches the names of parameters below the first layer."""
SHARED = re.compile("[^/]*/shared/")
"""Matches the names of a layer's parameters that all layers of a stack share."""


@dataclass(frozen=True)
class OptimizerConfig:
    """The paper's Adam and schedule (Vaswani et al. 2017, section 5.3); others by name."""

    name: str = "adam"
    """adam, adamw, adafactor, lion, muon or sgd."""
    schedule: str = "inverse_sqrt"
    """inverse_sqrt (the paper's), constant, cosine, linear or warmup_stable_decay; each after a linear warm-up."""
    learning_rate: Annotated[float, Gt(0), Le(1e38)] | None = None
    """The highest learning rate, at the end of warm-up; None: the paper's (d_model * warmup_steps)^-0.5."""
    warmup_steps: Annotated[int, Ge(1), Lt(2**31)] = 4_000
    """Steps over which the learning rate rises linearly."""
    schedule_steps: Annotated[int, Ge(1), Lt(2**31)] | None = None
    """Length of cosine, linear and warmup_stable_decay schedules; None: train.steps."""
    decay_share: Annotated[float, Ge(1e-6), Le(1)] = 0.2
    """Of the steps after warm-up, the share, at their end, in which warmup_stable_decay falls to 0, which the last step
    has (Hu et al. 2024)."""
    b1: Annotated[float, Ge(0), Lt(1)] = 0.9
    """Decay of the gradient's mean."""
    b2: Annotated[float, Ge(0), Lt(1)] = 0.98
    """Decay of the gradient's square."""
    epsilon: Annotated[float, Ge(0)] = 1e-9
    """Added to the root of the gradient's square."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Decoupled decay of matrices (adamw, lion, muon, adafactor); norms and biases are left alone."""
    no_decay: tuple[str, ...] = ()
    """Names of matrices that do not decay either; patterns such as embedding/* match many."""
    layer_decay: Annotated[float, Gt(0), Le(1)] = 1.0
    """Each layer's learning rate is this times that of the layer above: below 1 to fine-tune."""
    clip_norm: Annotated[float, Ge(0)] = 0.0
    """Gradients of a larger norm are scaled down to it; 0: never."""
    ema: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Decay of a moving average of the parameters, such as 0.999, which `--checkpoint ema` takes; 0: none is kept."""
    frozen: tuple[str, ...] = ()
    """Names of parameters that are not trained; patterns such as encoder/* match many."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Weights that are adapted by factors of low rank."""


def make_schedule(config: OptimizerConfig, d_model: int, steps: int) -> optax.Schedule:
    """Makes the function from the number of updates made before, from 0, to the learning rate.

    Raises ValueError for an unknown schedule and for a field of `config` out of range.
    """
    check_ranges(config, "optimizer")
    peak = (d_model * config.warmup_steps) ** -0.5 if config.learning_rate is None else config.learning_rate
    shape = choose("optimizer.schedule", config.schedule, SCHEDULES)
    length = max((config.schedule_steps or steps) - config.warmup_steps, 1)

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(count, jnp.float32) + 1
        way = jnp.clip((step - config.warmup_steps) / length, 0, 1)
        after = shape.fraction(step / config.warmup_steps, way, config)
        return peak * jnp.minimum(step / config.warmup_steps, after)

    return schedule


class Shape(NamedTuple):
    """How a learning rate goes on after warm-up."""

    fraction: Callable[[jax.Array, jax.Array, OptimizerConfig], jax.Array]
    """Of the peak, given the step in units of warm-up and the part of the way from there to the end."""
    has_end: bool = True


SCHEDULES = {
    "inverse_sqrt": Shape(lambda warmups, _, __: jax.lax.rsqrt(warmups), has_end=False),
    "constant": Shape(lambda _, way, __: jnp.ones_like(way), has_end=False),
    "cosine": Shape(lambda _, way, __: (1 + jnp.cos(jnp.pi * way)) / 2),
    "linear": Shape(lambda _, way, __: 1 - way),
    "warmup_stable_decay": Shape(lambda _, way, config: jnp.minimum((1 - way) / config.decay_share, 1)),
}


def depends_on_steps(config: OptimizerConfig) -> bool:
    """Whether the learning rate at a step depends on train.steps."""
    return SCHEDULES[config.schedule].has_end and config.schedule_steps is None


def never_falls(config: OptimizerConfig, steps: int) -> str:
    """What is wrong with a schedule that should fall to its end and is still warming up there; empty: nothing."""
    end = config.schedule_steps or steps
    if not SCHEDULES[config.schedule].has_end or config.warmup_steps < end:
        return ""
    return f"optimizer.warmup_steps {config.warmup_steps} leave none of {end} steps for the {config.schedule} schedule"


def make_optimizer(
    config: OptimizerConfig,
    axes: Axes,
    schedule: optax.Schedule,
    *,
    numbers: Mapping[str, np.ndarray] = MappingProxyType({}),
    seed: int = 0,
) -> optax.GradientTransformation:
    """Makes the optimizer of parameters with these axes; raises ValueError for an unknown name.

    `numbers` are the layers of the model's parameters (`layer_numbers`), for `layer_decay`; `seed` draws LoRA factors.
    """
    if config.weight_decay and config.name in ("adam", "sgd"):
        raise ValueError(f"optimizer.weight_decay has no place in {config.name}; use adamw, lion, muon or adafactor")
    # A shared layer has one gradient, summed over all its places: it is one layer between the input and the output.
    numbers = {**numbers, **{name: np.asarray(0) for name in axes if SHARED.match(name)}}
    maps = _adapted_maps(config.lora, axes)
    if maps:
        axes = {name: names for name, names in axes.items() if name not in maps} | _factor_axes(maps)
    parts = [choose("optimizer.name", config.name, OPTIMIZERS)(config, axes, schedule)]
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if config.layer_decay < 1:
        parts.append(_by_layer(config.layer_decay, numbers))
    optimizer = optax.chain(*parts) if len(parts) > 1 else parts[0]
    optimizer = adapted(optimizer, config.lora, maps, seed) if maps else optimizer
    return with_moving_average(optimizer, config.ema) if config.ema else optimizer


def untrained(config: OptimizerConfig, axes: Axes) -> tuple[str, ...]:
    """The names of the frozen parameters, without adapted weights, whose gradient is needed."""
    frozen, maps = matching(axes, config.frozen), _adapted_maps(config.lora, axes)
    if maps:
        trained = {name for pattern in config.lora.trained for name in fnmatch.filter(axes, pattern)}
        frozen |= axes.keys() - trained
    return tuple(sorted(frozen - maps.keys()))


def matrices(axes: Axes) -> dict[str, bool]:
    """Tells which parameters are matrices: not norms and biases, however many layers are stacked."""
    return {name: len(set(of) - {"layers"}) > 1 and not name.endswith("bias") for name, of in axes.items()}


def decayed(config: OptimizerConfig, axes: Axes) -> dict[str, bool]:
    """Tells which parameters weight decay acts on: matrices but for those of `no_decay` and biases of positions."""
    exempt = matching(axes, config.no_decay) | {name for name in axes if "position_bias/" in name}
    return {name: matrix and name not in exempt for name, matrix in matrices(axes).items()}


def _adapted_maps(config: LoraConfig, axes: Axes) -> dict[str, tuple[int, int]]:
    """The argument `maps` of `lora.adapted`; raises ValueError for an adapted weight that is no linear map."""
    maps = {}
    for name in sorted(matching(axes, config.names)) if config.rank else ():
        dimensions = _matrix(name, axes[name])
        if dimensions is None:
            raise ValueError(f"optimizer.lora.names has {name}, which is no linear map of a layer; name kernels")
        maps[name] = (axes[name].count("layers"), len(dimensions[0]))
    return maps


def _factor_axes(maps: Mapping[str, tuple[int, int]]) -> Axes:
    axes = {}
    for name, (layers, _) in maps.items():
        a, b = factor_names(name)
        axes |= {a: ("layers",) * layers + ("inputs", "rank"), b: ("layers",) * layers + ("rank", "outputs")}
    return axes


def _by_layer(decay: float, numbers: Mapping[str, np.ndarray]) -> optax.GradientTransformation:
    """Multiplies updates by `decay` to the power of the layers above: 0 at the output, 1 for the top layer, and so on.

    As in BEiT (Bao et al. 2022, appendix). Stacks are counted separately, and embeddings are below all layers.
    """
    tops: dict[str, int] = {}
    for name, layers in numbers.items():
        stack = name.split("/")[0]
        tops[stack] = max(tops.get(stack, 0), int(layers.max()))
    input_depth = max(tops.values(), default=-1) + 2

    def factor(name: str) -> np.ndarray:
        weight = name.removesuffix("/lora_a").removesuffix("/lora_b")
        depth = input_depth if INPUT.match(name) else 0
        if weight in numbers:
            depth = tops[name.split("/")[0]] + 1 - numbers[weight]
        return np.asarray(np.float32(decay) ** np.asarray(depth, np.float32))

    def scaled(updates: Any, _: Any) -> Any:
        factors = {name: factor(name) for name in updates}
        shapes = {name: by.shape + (1,) * (updates[name].ndim - by.ndim) for name, by in factors.items()}
        return {name: value * factors[name].reshape(shapes[name]) for name, value in updates.items()}

    return optax.stateless(scaled)


def _muon(config: OptimizerConfig, axes: Axes, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) for the layers' matrices, AdamW for embeddings, norms and biases."""
    maps = {name: _matrix(name, of) for name, of in axes.items()}
    dimensions: Any = {name: matrix and contrib.MuonDimensionNumbers(*matrix) for name, matrix in maps.items()}
    directions: Any = {
        "muon": optax.chain(contrib.muon(1.0, muon_weight_dimension_numbers=dimensions), optax.scale(-1.0)),
        "adam": optax.scale_by_adam(config.b1, config.b2, config.epsilon),
    }
    kinds = {name: "muon" if matrix else "adam" for name, matrix in maps.items()}
    decay = optax.add_decayed_weights(config.weight_decay, mask=decayed(config, axes))
    return optax.chain(optax.partition(directions, kinds), decay, optax.scale_by_learning_rate(schedule))


def _matrix(name: str, axes: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Input and output dimensions of a layer's linear map, where heads have two; None for anything else."""
    table = "vocab" in axes or INPUT.match(name)
    if not matrices({name: axes})[name] or "embed" not in axes or table:
        return None
    width = axes.index("embed")
    rest = tuple(i for i, axis in enumerate(axes) if axis not in ("layers", "embed"))
    return ((width,), rest) if width < rest[0] else (rest, (width,))


def _adafactor(config: OptimizerConfig, axes: Axes, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Adafactor (Shazeer and Stern 2018) for each layer by itself, its linear maps factored as matrices."""
    inner = optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=32),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    )
    decay = optax.add_decayed_weights(config.weight_decay, mask=decayed(config, axes))
    return optax.chain(_layer_by_layer(inner, axes), decay, optax.scale_by_learning_rate(schedule))


def _layer_by_layer(inner: optax.GradientTransformation, axes: Axes) -> optax.GradientTransformation:
    """Applies `inner` to every parameter separately: each layer of a stack by itself, and linear maps as matrices."""

    def view(name: str, array: jax.Array) -> jax.Array:
        """`[layers, rows, columns]` for a linear map, `[layers, size]` for a vector; 1 layer outside of stacks."""
        names = axes[name]
        array = array if names[0] == "layers" else array[None]
        matrix = _matrix(name, names)
        if matrix is None:
            return array if matrices({name: names})[name] else array.reshape(array.shape[0], -1)
        rows = math.prod(array.shape[axis + (names[0] != "layers")] for axis in matrix[0])
        return array.reshape(array.shape[0], rows, -1)

    def init(params: Any) -> dict[str, optax.OptState]:
        return {name: jax.vmap(inner.init)(view(name, value)) for name, value in params.items()}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[dict[str, jax.Array], dict[str, optax.OptState]]:
        new_updates, new_state = {}, {}
        for name, value in updates.items():
            new: Any
            new, new_state[name] = jax.vmap(inner.update)(view(name, value), state[name], view(name, params[name]))
            new_updates[name] = jnp.reshape(new, value.shape)
        return new_updates, new_state

    return optax.GradientTransformation(init, update)


OPTIMIZERS: dict[str, Callable[[OptimizerConfig, Axes, optax.Schedule], optax.GradientTransformation]] = {
    "adam": lambda config, _, schedule: optax.adam(schedule, config.b1, config.b2, config.epsilon),
    "adamw": lambda config, axes, schedule: optax.adamw(
        schedule, config.b1, config.b2, config.epsilon, weight_decay=config.weight_decay, mask=decayed(config, axes)
    ),
    "adafactor": _adafactor,
    "lion": lambda config, axes, schedule: optax.lion(
        schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=decayed(config, axes)
    ),
    "muon": _muon,
    "sgd": lambda config, _, schedule: optax.sgd(schedule),
}
