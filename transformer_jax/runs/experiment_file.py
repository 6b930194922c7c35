"""An experiment as a value on disk: read from its Python file, written as plain JSON, compared field by field.

The classes of its parts always come from the experiment's file; the JSON says which they were and holds their fields.
"""

import dataclasses
import itertools
import json
import sys
import traceback
import types
import typing
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, Literal, TypeVar

from cattrs.preconf.json import make_converter

from transformer_jax.data.nearest import did_you_mean
from transformer_jax.runs.imported_files import make_importable
from transformer_jax.training.experiment import Experiment

Tree = dict[str, Any]
"""Plain JSON: an object for every dataclass, with its name under "class"."""
T = TypeVar("T")
CONVERTER = make_converter(detailed_validation=False, unstruct_collection_overrides={Set: sorted})
COUNTER = itertools.count()


def to_tree(experiment: Any, path: str = "") -> Tree:
    """The experiment as plain JSON; raises ValueError for a value that JSON cannot hold."""
    tree: Tree = {"class": type(experiment).__name__}
    for name in _names(experiment):
        value, where = getattr(experiment, name), _join(path, name)
        tree[name] = to_tree(value, where) if _has_fields(value) else _plain(value, where)
    return tree


def from_tree(default: T, tree: Any, path: str = "") -> T:
    """`default` with the values of `tree`; raises ValueError where fields, classes or types are others."""
    kind, names = type(default).__name__, _names(default)
    if not isinstance(tree, dict) or tree.get("class") != kind:
        found = tree.get("class") if isinstance(tree, dict) else repr(tree)
        raise ValueError(f"{path or 'the experiment'} was saved as {found}, but its file makes it a {kind}")
    for name in sorted(tree.keys() - {"class", *names}):
        near = did_you_mean(_join(path, name), [_join(path, known) for known in names])
        raise ValueError(f"the saved experiment has an unknown field {_join(path, name)}{near}")
    for name in sorted(set(names) - tree.keys()):
        raise ValueError(f"the saved experiment has no field {_join(path, name)}")
    hints = typing.get_type_hints(type(default))
    values = {name: _value(getattr(default, name), tree[name], hints[name], _join(path, name)) for name in names}
    return dataclasses.replace(typing.cast(Any, default), **values)


def flatten(experiment: Any) -> dict[str, Any]:
    """Every field by its path, such as `model.num_layers`."""
    return {path: value for path, value, _ in _leaves(experiment, "")}


def field_types(experiment: Any) -> dict[str, Any]:
    """The type that every field of `flatten` was declared with."""
    return {path: kind for path, _, kind in _leaves(experiment, "")}


def differences(old: Any, new: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Where two trees differ, by path; None stands for a field that one of them has not.

    Of a part that is of another class only that is told, as `data.source.class`.
    """
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return {} if old == new else {path: (old, new)}
    if old.get("class") != new.get("class"):
        return {_join(path, "class"): (old.get("class"), new.get("class"))}
    found: dict[str, tuple[Any, Any]] = {}
    for name in old | new:
        found |= differences(old.get(name), new.get(name), _join(path, name))
    return found


def load_experiment_file(path: str | Path, function: str = "experiment") -> Experiment:
    """What a function of a Python file returns, its values checked against their types.

    Executes the file, as a module of its own. Raises FileNotFoundError or ValueError with one line.
    """
    path = Path(path)
    if not path.is_file():
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*.py")])
        raise FileNotFoundError(f"there is no experiment file {path}{near}")
    # Dataclasses, pickle and tyro look a class's module up by name.
    module = types.ModuleType(f"transformer_jax_experiment_{next(COUNTER)}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    make_importable(path)
    try:
        exec(compile(path.read_bytes(), path, "exec", dont_inherit=True), module.__dict__)
        found = getattr(module, function, None)
        result = found() if callable(found) else None
    except Exception as error:
        del sys.modules[module.__name__]
        raise ValueError(f"{_place(error, path)}: {type(error).__name__}: {error}") from error
    if found is None:
        raise ValueError(f"{path} has no function {function}(); define one that returns an Experiment")
    if not isinstance(result, Experiment):
        raise ValueError(f"{function}() in {path} must return an Experiment, not {result!r}")
    try:
        return from_tree(dataclasses.replace(result, variant=function), to_tree(result) | {"variant": function})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def needed(kind: Any) -> str:
    """What a field of this type takes, in words."""
    arguments = typing.get_args(kind)
    if kind in WORDS:
        return WORDS[kind]
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(repr, arguments))
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return " or ".join(map(needed, arguments))
    if typing.get_origin(kind) is tuple:
        several = arguments[-1] is Ellipsis
        return f"values that are each {needed(arguments[0])}" if several else ", then ".join(map(needed, arguments))
    return getattr(kind, "__name__", str(kind))


WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _has_fields(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _names(config: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(config) if field.init]


def _leaves(config: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    hints = typing.get_type_hints(type(config))
    for name in _names(config):
        value, where = getattr(config, name), _join(path, name)
        if _has_fields(value):
            yield from _leaves(value, where)
        else:
            yield where, value, hints[name]


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, type):
        raise ValueError(f"{path} is the class {value.__name__}; write {value.__name__}()")
    try:
        return json.loads(json.dumps(CONVERTER.unstructure(value)))
    except TypeError:
        raise ValueError(f"{path} is {value!r}, which cannot be saved as JSON") from None


def _fits(part: Any, kind: Any) -> bool:
    """Whether a part of an experiment is of the class that is asked for there."""
    return not dataclasses.is_dataclass(kind) or isinstance(part, typing.cast(type, kind))


def _value(default: Any, tree: Any, kind: Any, path: str) -> Any:
    """The value of one field, of its declared type."""
    if not _fits(default, kind):
        raise ValueError(f"{path} needs a {needed(kind)}, not {default!r}")
    if _has_fields(default):
        return from_tree(default, tree, path)
    try:
        value = CONVERTER.structure(tree, kind)
        # Structuring is lenient ("3" is taken for an int); what does not come back as it was had another type.
        same = _plain(value, path) == tree
    except Exception as error:  # Every type has errors of its own.
        raise ValueError(f"{path} needs {needed(kind)}, not {tree!r}") from error
    if not same:
        raise ValueError(f"{path} needs {needed(kind)}, not {tree!r}")
    return value


def _place(error: Exception, path: Path) -> str:
    """The file and the line in it that an error came from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return f"{path} line {line}" if line else str(path)
