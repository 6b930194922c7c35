"""Parameters by name: the flat dictionary `{"decoder/layers/self_attention/query/kernel": array, ...}`.

Checkpoints, optimizers and everything that speaks of single parameters use these names; how a module stores its
variables stays the module's business.
"""

import fnmatch
from collections.abc import Collection, Sequence
from typing import Any

import jax
from flax import nnx

MOST_LISTED = 12
"""Names that an error lists."""


def _variables(model: Any) -> tuple[dict[str, nnx.Variable], Any]:
    """The model's variables by name, and the structure to put them back into."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(model, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}, structure


def named_parameters(model: Any) -> dict[str, Any]:
    """Every parameter by name: arrays of a module or of its gradient, shapes of an abstract one."""
    return {name: jax.tree.leaves(variable)[0] for name, variable in _variables(model)[0].items()}


def replace_parameters(model: Any, parameters: dict[str, Any]) -> Any:
    """The same module with other values (arrays, shardings), one for each name of `named_parameters(model)`."""
    variables, structure = _variables(model)
    if variables.keys() != parameters.keys():
        raise ValueError(f"the parameters differ in {sorted(variables.keys() ^ parameters.keys())}")
    leaves = [jax.tree.map(lambda _, name=name: parameters[name], variable) for name, variable in variables.items()]
    return jax.tree.unflatten(structure, leaves)


def matching(names: Collection[str], patterns: Sequence[str]) -> set[str]:
    """The names that match one of the patterns, as in a shell; ValueError for a pattern that matches nothing."""
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"no parameter is called {pattern}; there are {_some(names)}")
    return {name for pattern in patterns for name in fnmatch.filter(names, pattern)}


def _some(names: Collection[str]) -> str:
    """The first of some names."""
    listed = list(names)
    return ", ".join(listed[:MOST_LISTED]) + (", ..." if len(listed) > MOST_LISTED else "")


def partition(parameters: dict[str, Any], frozen: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters to train, and the frozen ones: those whose name matches one of the patterns, as in a shell.

    Such as `encoder/*`. Raises ValueError for a pattern that matches nothing, and when nothing is left to train.
    """
    names = matching(parameters, frozen)
    trainable = {name: value for name, value in parameters.items() if name not in names}
    if not trainable:
        raise ValueError(f"{_some(frozen)} leaves no parameter to train")
    return trainable, {name: parameters[name] for name in parameters if name in names}


def parameter_axes(model: Any) -> dict[str, tuple[str, ...]]:
    """The logical axes of every parameter by name; what a stack adds in front is called `layers`."""
    axes = {}
    for name, variable in _variables(model)[0].items():
        stacked = len(jax.tree.leaves(variable)[0].shape) - len(variable.axes)
        axes[name] = ("layers",) * stacked + tuple(variable.axes)
    return axes
