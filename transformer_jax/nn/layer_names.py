"""Parameters by layer: `decoder/3/...` for the fourth layer, however its stack groups its layers.

A stack holds several layers in one array, under names such as `decoder/layers/...` with a leading axis. A person,
another model or another format speaks of layers by number, from 0.
"""

import re
from collections.abc import Mapping

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


Slice = tuple[str, tuple[int, ...]]
"""A parameter's name, and the place along its layers axis; no place for one without."""


def slices_by_layer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Slice]:
    """Where the parameter of each name by layer is; those outside of stacks are under their own names."""
    numbers, slices = layer_numbers(shapes), {}
    for name in shapes:
        of = numbers.get(name)
        for place, number in enumerate([None] if of is None else of.reshape(-1).tolist()):
            each = name if number is None else LAYER.sub(lambda match, n=number: f"{match['stack']}{n}/", name)
            slices[each] = (name, (place,) if of is not None and of.ndim else ())
    return slices
