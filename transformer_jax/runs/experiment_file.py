"""An experiment on disk: read from its Python file or written as one, written as plain JSON, compared field by field.

The class of a part comes from the experiment's file; the JSON has its name and fields. A class may have two attributes:

kinds            a mapping (or a classmethod that returns one) from names to classes that may replace this class, each
                 constructible without arguments; `--model.positions NAME` chooses one
upgraded(tree)   a classmethod that turns the JSON of this class, as any version wrote it, into today's fields
"""

import dataclasses
import inspect
import itertools
import json
import sys
import traceback
import types
import typing
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from cattrs.preconf.json import make_converter

from transformer_jax.data.fields import TYPE_NAMES, check_ranges, declared, fields, is_config, join
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
    for name, value, _ in declared(experiment):
        where = join(path, name)
        tree[name] = to_tree(value, where) if is_config(value) else _plain(value, where)
    return tree


def from_tree(default: T, tree: Any) -> T:
    """`default` with the values of `tree`, which an older version may have written: fields that it lacks stay.

    Raises ValueError for an unknown field, for a value of another type than its field's, and for a class that is
    neither the one in `default` nor among its `kinds`.
    """
    return _from_tree(default, upgrade(default, tree), type(default), "")


def upgrade(default: Any, tree: Any, kind: Any = Any) -> Any:
    """A tree that an older version wrote, in today's fields; newer fields stay absent.

    `default` is an experiment with the same classes, and `kind` the declared type of its field.
    """
    if not isinstance(tree, dict):
        return tree
    upgraded = getattr(type(_template(default, tree, kind)), "upgraded", None)
    tree = dict(tree if upgraded is None else upgraded(dict(tree)))
    template = _template(default, tree, kind)
    if tree.get("class") == type(template).__name__:
        for name, value, inner in declared(template):
            if name in tree and (is_config(value) or kinds_of(value, inner)):
                tree[name] = upgrade(value, tree[name], inner)
    return tree


def kinds_of(value: Any, kind: Any) -> Mapping[str, type]:
    """The classes that a field may have, by name; empty unless its value or declared type has `kinds`."""
    while typing.get_origin(kind) is Annotated:
        kind = kind.__origin__
    members = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else ()
    for one in (type(value), kind, *members):
        kinds = getattr(one, "kinds", {})
        kinds = kinds() if inspect.ismethod(kinds) else kinds
        if isinstance(kinds, Mapping) and kinds:
            return kinds
    return {}


def choices(experiment: Any) -> dict[str, Mapping[str, type]]:
    """The path of every field whose class can be chosen by name, and its classes."""
    return {path: kinds for path, value, kind in fields(experiment) if (kinds := kinds_of(value, kind))}


def replaced(experiment: T, path: str, value: Any) -> T:
    """The experiment with another value of the field at this path."""
    name, _, rest = path.partition(".")
    inner = replaced(getattr(experiment, name), rest, value) if rest else value
    return dataclasses.replace(typing.cast(Any, experiment), **{name: inner})


def field_types(config: Any) -> dict[str, Any]:
    """The declared type of every field by its path, such as `model.num_layers`."""
    return {path: kind for path, value, kind in fields(config) if not is_config(value)}


def differences(old: Any, new: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """The fields of `old` that differ in `new`, by path, with both values; None if `new` lacks the field.

    Fields that only `new` has are left out: an older version wrote `old`. A part of another class counts as one
    difference, such as `data.source.class`.
    """
    if not (isinstance(old, dict) and isinstance(new, dict) and "class" in old):
        return {} if old == new else {path: (old, new)}
    if old["class"] != new.get("class"):
        return {join(path, "class"): (old["class"], new.get("class"))}
    changed: dict[str, tuple[Any, Any]] = {}
    for name in old:
        changed |= differences(old[name], new.get(name), join(path, name))
    return changed


def load_experiment_file(path: str | Path, function: str = "experiment") -> Experiment:
    """Calls a function of a Python file and returns its experiment, values checked against types and ranges.

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
        make = getattr(module, function, None)
        result = make() if callable(make) else None
    except Exception as error:
        del sys.modules[module.__name__]
        raise ValueError(f"{_place(error, path)}: {type(error).__name__}: {error}") from error
    if make is None:
        others = did_you_mean(function, [name for name, value in vars(module).items() if callable(value)])
        raise ValueError(f"{path} has no function {function}(){others or '; define one that returns an Experiment'}")
    if not isinstance(result, Experiment):
        raise ValueError(f"{function}() in {path} must return an Experiment, not {result!r}")
    try:
        experiment = from_tree(dataclasses.replace(result, variant=function), to_tree(result) | {"variant": function})
        check_ranges(experiment)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return experiment


def experiment_source(experiment: Experiment, name: str) -> str:
    """The Python file that makes an experiment, for people to read and change; sizes follow from the vocabularies."""
    sizes = {size: 0 for size in ("vocab_size", "source_vocab_size", "num_outputs") if hasattr(experiment.model, size)}
    experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, **sizes))
    modules: dict[str, set[str]] = {}
    parts = {field: expression(value, modules) for field, value, _ in declared(experiment) if is_config(value)}
    modules.setdefault("transformer_jax", set()).update(("Experiment", "run_experiment"))
    imports = [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(modules.items())]
    lines = [
        f'"""The published model {json.dumps(name)[1:-1]}, as it was imported."""',
        "",
        *imports,
        "",
        "",
        "def experiment() -> Experiment:",
        "    return Experiment(",
        *(f"        {field}={text}," for field, text in parts.items()),
        "    )",
        "",
        "",
        "run_experiment(__file__)",
        "",
    ]
    return "\n".join(lines)


def expression(value: Any, modules: dict[str, set[str]]) -> str:
    """Python for a value, the fields of dataclasses that differ from their defaults; adds what has to be imported."""
    if not is_config(value):
        return repr(value)
    kind = type(value)
    modules.setdefault(kind.__module__, set()).add(kind.__name__)
    given = [
        f"{field.name}={expression(getattr(value, field.name), modules)}"
        for field in dataclasses.fields(value)
        if field.init and getattr(value, field.name) != _default(field)
    ]
    return f"{kind.__name__}({', '.join(given)})"


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def needed(kind: Any) -> str:
    """Describes the values of a field of this type."""
    arguments, origin = typing.get_args(kind), typing.get_origin(kind)
    if kind in TYPE_NAMES:
        return TYPE_NAMES[kind]
    if origin is Annotated:
        return needed(arguments[0])
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(needed, arguments))
    if origin is tuple:
        several = arguments[-1] is Ellipsis
        return f"values that are each {needed(arguments[0])}" if several else ", then ".join(map(needed, arguments))
    return getattr(kind, "__name__", str(kind))


def _plain(value: Any, path: str) -> Any:
    if isinstance(value, type):
        raise ValueError(f"{path} is the class {value.__name__}; write {value.__name__}()")
    try:
        return json.loads(json.dumps(CONVERTER.unstructure(value)))
    except TypeError:
        raise ValueError(f"{path} is {value!r}, which cannot be saved as JSON") from None


def _template(default: Any, tree: Any, kind: Any) -> Any:
    """An instance of the class that the tree names: `default`, or one of the field's `kinds`."""
    named = tree.get("class") if isinstance(tree, dict) else None
    if named == type(default).__name__:
        return default
    known = {other.__name__: other for other in kinds_of(default, kind).values()}
    return known[named]() if named in known else default


def _from_tree(default: Any, tree: Any, kind: Any, path: str) -> Any:
    """The dataclass of a tree in today's fields."""
    template = _template(default, tree, kind)
    saved, ours = tree.get("class") if isinstance(tree, dict) else repr(tree), type(template).__name__
    if not isinstance(tree, dict) or saved != ours:
        raise ValueError(f"{path or 'the experiment'} was saved as {saved}, but its file makes it a {ours}")
    fields = {name: value for name, value, _ in declared(template)}
    for name in sorted(tree.keys() - {"class", *fields}):
        near = did_you_mean(join(path, name), [join(path, known) for known in fields])
        raise ValueError(f"the saved experiment has an unknown field {join(path, name)}{near}")
    hints = typing.get_type_hints(type(template))
    saved = {name: as_value(fields[name], tree[name], hints[name], join(path, name)) for name in fields if name in tree}
    return dataclasses.replace(template, **saved)


def as_value(default: Any, tree: Any, kind: Any, path: str) -> Any:
    """The value of one field, of its declared type."""
    if dataclasses.is_dataclass(kind) and not isinstance(default, typing.cast(type, kind)):
        raise ValueError(f"{path} needs a {needed(kind)}, not {default!r}")
    if tree is None and type(None) in typing.get_args(kind):
        return None
    if is_config(_template(default, tree, kind)):
        return _from_tree(default, tree, kind, path)
    problem = None
    try:
        value = CONVERTER.structure(tree, typing.cast(Any, kind))
        # Structuring is lenient (it makes "3" an int): a value of another type does not come back as it was.
        if _plain(value, path) == tree:
            return value
    except Exception as error:  # Every type has errors of its own.
        problem = error
    raise ValueError(f"{path} needs {needed(kind)}, not {tree!r}") from problem


def _place(error: Exception, path: Path) -> str:
    """The file and the line in it that an error came from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return f"{path} line {line}" if line else str(path)
