"""Parameters by layer: `decoder/3/...` for the fourth layer, however its stack groups its layers.

A stack holds several layers in one array, under names such as `decoder/layers/...` with a leading axis. A person,
another model or another format speaks of layers by number, from 0.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

LAYER = re.compile(r"(?P<stack>.*/|)(?P<group>first|layers|last)(_(?P<place>\d+))?/")
"""The beginning of the names of a layer's parameters."""


def layer_numbers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Int[np.ndarray, "*layers"]]:
    """The number of the layer that a parameter belongs to; for one with a layers axis, of each.

    `shapes` has the parameters' shapes by name; those outside of stacks are left out, and so are layers that a stack
    shares.
    """
    matches = {name: match for name in shapes if (match := LAYER.match(name))}
    numbers = {}
    for name, match in matches.items():
        stack, group, place = match["stack"], match["group"], int(match["place"] or 0)
        groups = [(other, each) for other, each in matches.items() if each["stack"] == stack]
        first = len({each["place"] for _, each in groups if each["group"] == "first"})
        period = len({each["place"] for _, each in groups if each["group"] == "layers"})
        repeats = next((shapes[other][0] for other, each in groups if each["group"] == "layers"), 0)
        begin = {"first": 0, "layers": first, "last": first + repeats * period}[group] + place
        numbers[name] = begin + period * np.arange(repeats) if group == "layers" else np.asarray(begin)
    return numbers


def names_by_layer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[str]]:
    """For every parameter its names by layer, one for each step along its layers axis; others have their one name."""
    numbers = layer_numbers(shapes)
    return {
        name: [LAYER.sub(lambda match, n=n: f"{match['stack']}{n}/", name) for n in numbers[name].reshape(-1)]
        if name in numbers
        else [name]
        for name in shapes
    }


def by_layer(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters under their names by layer, without layers axes."""
    shapes = {name: value.shape for name, value in parameters.items()}
    numbers, names = layer_numbers(shapes), names_by_layer(shapes)
    return {
        each: value[i] if name in numbers and numbers[name].ndim else value
        for name, value in parameters.items()
        for i, each in enumerate(names[name])
    }


def with_layers_axes(parameters: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The inverse of `by_layer` for a model whose parameters have these shapes."""
    numbers, names = layer_numbers(shapes), names_by_layer(shapes)
    return {
        name: np.stack([parameters[each] for each in names[name]])
        if name in numbers and numbers[name].ndim
        else parameters[names[name][0]]
        for name in shapes
    }
