"""Low-rank adaptation (Hu et al. 2021, "LoRA", section 4.1) as a wrapper around an optimizer.

The adapted weights are `W = W0 + alpha / rank * A B`, and only A and B are learnt. The gradient of W gives those of A
and B by the chain rule, the optimizer updates these, and W is computed anew. So no layer knows of it, and the model has
merged weights, also in checkpoints. Differentiating A and B inside of the loss needs the gradient of W all the same: it
was measured to be no faster and to need no less memory.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from annotated_types import Ge, Gt
from jaxtyping import Array


@dataclass(frozen=True)
class LoraConfig:
    """Weights that are adapted by factors of low rank instead of being trained."""

    rank: Annotated[int, Ge(0)] = 0
    """Columns of A and rows of B; 0: nothing is adapted."""
    alpha: Annotated[float, Gt(0)] = 16.0
    """The product of the factors is multiplied by alpha / rank."""
    names: tuple[str, ...] = ("*/query/kernel", "*/value/kernel")
    """Names of the adapted weights; patterns such as */kernel match many."""
    trained: tuple[str, ...] = ("head/*", "pooler/*")
    """Names of weights that are trained beside the factors, where the model has them; all others are frozen."""

    @property
    def scale(self) -> float:
        """The factor of the product of A and B."""
        return self.alpha / self.rank


class LoraState(NamedTuple):
    """The state of adapted weights and of the wrapped optimizer."""

    weights: dict[str, Any]
    """The adapted weights before training, W0."""
    factors: dict[str, Any]
    """A `[*layers, inputs, rank]` as NAME/lora_a and B `[*layers, rank, outputs]` as NAME/lora_b."""
    inner: Any


product = partial(jnp.matmul, precision="highest")
"""Matrix product in full float32 precision, also on accelerators."""


def factor_names(name: str) -> tuple[str, str]:
    """The names of A and B of a weight."""
    return f"{name}/lora_a", f"{name}/lora_b"


def adapted(
    inner: optax.GradientTransformation, config: LoraConfig, maps: Mapping[str, tuple[int, int]], seed: int
) -> optax.GradientTransformation:
    """Makes an optimizer that updates factors, and every parameter outside of `maps`, with `inner`.

    `maps` gives for every adapted weight the number of leading dimensions that count layers, and of those after them
    that are inputs. A is drawn from a normal distribution of variance 1 / inputs and B is zero, so that W begins as W0.
    """

    def matrix(name: str, weight: Any) -> Any:
        """`[*layers, inputs, outputs]`."""
        layers, inputs = maps[name]
        rows = math.prod(weight.shape[layers : layers + inputs])
        return jnp.reshape(weight, (*weight.shape[:layers], rows, -1))

    def init(params: Any) -> LoraState:
        factors = {}
        for i, name in enumerate(sorted(maps)):
            *layers, inputs, outputs = matrix(name, params[name]).shape
            if config.rank > min(inputs, outputs):
                raise ValueError(f"optimizer.lora.rank {config.rank} is more than {name} has: {inputs} x {outputs}")
            a, b = factor_names(name)
            key = jax.random.fold_in(jax.random.key(seed), i)
            factors[a] = jax.random.normal(key, (*layers, inputs, config.rank)) * inputs**-0.5
            factors[b] = jnp.zeros((*layers, config.rank, outputs))
        weights = {name: params[name] for name in maps}
        return LoraState(weights, factors, inner.init(_others(params, maps) | factors))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, LoraState]:
        gradients = {}
        for name in maps:
            a, b = factor_names(name)
            gradient = config.scale * matrix(name, updates[name])
            gradients[a] = product(gradient, jnp.swapaxes(state.factors[b], -1, -2))
            gradients[b] = product(jnp.swapaxes(state.factors[a], -1, -2), gradient)
        new: Any
        rest = _others(params, maps) | state.factors
        new, inner_state = inner.update(_others(updates, maps) | gradients, state.inner, rest)
        moved: Any = optax.apply_updates(state.factors, {name: new[name] for name in state.factors})
        merged = merge(state.weights, moved, config)
        changes = _others(new, state.factors) | {name: merged[name] - params[name] for name in maps}
        return changes, LoraState(state.weights, moved, inner_state)

    return optax.GradientTransformation(init, update)


def merge(weights: Mapping[str, Array], factors: Mapping[str, Array], config: LoraConfig) -> dict[str, Array]:
    """Adds `alpha / rank * A B` to every weight that has factors; the others are returned as they are."""
    merged = dict(weights)
    for name, weight in weights.items():
        a, b = factor_names(name)
        if a in factors:
            merged[name] = weight + config.scale * product(factors[a], factors[b]).reshape(weight.shape)
    return merged


def _others(values: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
