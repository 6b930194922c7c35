"""An exponential moving average of the parameters, kept by a wrapper around an optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class AveragedState(NamedTuple):
    """The state of the wrapped optimizer, and the average."""

    inner: Any
    average: dict[str, Any]
    """Of every parameter that is trained, float32."""
    count: Any
    """Int32 scalar: updates made so far."""


def with_moving_average(inner: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """Makes an optimizer that updates as `inner` does and keeps `average = d * average + (1 - d) * parameters`.

    After update n, from 1, d is the lower of `decay` and (1 + n) / (10 + n), so that the parameters before training are
    soon forgotten (the rule of `num_updates` in TensorFlow's ExponentialMovingAverage).
    """

    def init(params: Any) -> AveragedState:
        average = jax.tree.map(lambda value: jnp.array(value, jnp.float32), params)
        return AveragedState(inner.init(params), average, jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, AveragedState]:
        changes, inner_state = inner.update(updates, state.inner, params)
        count = state.count + 1
        share = 1 - jnp.minimum(decay, (1 + count) / (10 + count))
        new: Any = optax.apply_updates(params, changes)
        average = jax.tree.map(lambda old, value: old + share * (value - old), state.average, new)
        return changes, AveragedState(inner_state, average, count)

    return optax.GradientTransformation(init, update)
