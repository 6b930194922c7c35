"""Fields of an experiment from the command line: `--model.num-layers 2`, dashes or underscores alike.

A field whose class has `kinds` takes the name of one (`--model.positions learned`), whose fields can then be set.
"""

import ast
import contextlib
import typing
from collections.abc import Sequence
from functools import reduce
from operator import getitem
from typing import Any, TypeVar

import tyro
from tyro.conf import AvoidSubcommands, FlagConversionOff

from transformer_jax.data.fields import check_ranges
from transformer_jax.data.nearest import did_you_mean
from transformer_jax.runs.experiment_file import as_value, choices, field_types, from_tree, needed, replaced, to_tree

T = TypeVar("T")
Option = tuple[str, list[str]]
"""The path of a field, and its values."""


def apply_overrides(experiment: T, arguments: Sequence[str], prog: str, *, only: str | tuple[str, ...] = "") -> T:
    """The experiment with changes to fields whose paths begin with (one of) `only`; ValueError for a wrong one.

    With `--help` prints every field with its default and raises SystemExit.
    """
    if {"-h", "--help"} & set(arguments):
        for path, kinds in choices(experiment).items():
            print(f"{_option(path)} {{{','.join(kinds)}}}")
        kind, config = type(experiment), (AvoidSubcommands, FlagConversionOff)
        return tyro.cli(kind, default=experiment, args=["--help"], prog=prog, config=config)
    experiment, options = _choose(experiment, _options(arguments), only)
    fields = {path: kind for path, kind in field_types(experiment).items() if path.startswith(only)}
    tree = to_tree(experiment)
    for path, values in options:
        if path not in fields:
            raise ValueError(_unknown(path, list(fields)))
        *parts, name = path.split(".")
        reduce(getitem, parts, tree)[name] = _parsed(path, values, fields[path])
    changed = from_tree(experiment, tree)
    check_ranges(changed)
    return changed


def given(arguments: Sequence[str], path: str) -> str:
    """The value that the arguments give a field of text, the last of several; empty: none."""
    options = [] if {"-h", "--help"} & set(arguments) else _options(arguments)
    return next((values[-1] for name, values in reversed(options) if name == path and values), "")


def _choose(experiment: T, options: list[Option], only: str | tuple[str, ...]) -> tuple[T, list[Option]]:
    """The experiment with the classes that options choose by name, outer ones first, and the other options."""
    for path, values in sorted(options, key=lambda option: option[0]):
        kinds = choices(experiment).get(path)
        if kinds and path.startswith(only):
            if len(values) != 1 or values[0] not in kinds:
                near = did_you_mean(values[0], kinds) if values else ""
                raise ValueError(f"{_option(path)} is one of {', '.join(kinds)}{_given(values)}{near}")
            experiment = replaced(experiment, path, kinds[values[0]]())
            options = [option for option in options if option[0] != path]
    return experiment, options


def _parsed(path: str, values: list[str], kind: Any) -> Any:
    """The values of an option as JSON: as they are, or else as Python writes them; ValueError if neither is `kind`."""
    if values == ["None"] and type(None) in typing.get_args(kind):
        return None
    for read in (str, _literal):
        items = [read(value) for value in values]
        tree = items if typing.get_origin(kind) is tuple or len(items) != 1 else items[0]
        with contextlib.suppress(ValueError):
            as_value(None, tree, kind, path)
            return tree
    raise ValueError(f"{_option(path)} needs {needed(kind)}{_given(values)}")


def _literal(text: str) -> Any:
    for read in (ast.literal_eval, float):
        with contextlib.suppress(ValueError, SyntaxError):
            return read(text.capitalize() if text in ("true", "false") else text)
    return text


def _options(arguments: Sequence[str]) -> list[Option]:
    """Field paths and the values that follow them."""
    options: list[Option] = []
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            options.append((name.replace("-", "_"), [value] if equals else []))
        elif options:
            options[-1][1].append(argument)
        else:
            raise ValueError(f"unexpected argument {argument!r}; fields are changed like --train.steps 100")
    return options


def _unknown(path: str, fields: list[str]) -> str:
    if inside := [field for field in fields if field.startswith(f"{path}.")]:
        return f"{_option(path)} is chosen in the experiment's file; change its fields, such as {_option(inside[0])}"
    near = did_you_mean(_option(path), map(_option, fields))
    if namesakes := [field for field in fields if field.endswith(f".{path}")]:
        near = f"; did you mean {_option(namesakes[0])}?"
    return f"unknown field {_option(path)}{near or '; --help lists every field'}"


def _given(values: list[str]) -> str:
    return f", not {' '.join(values)!r}" if values else "; nothing was given"


def _option(path: str) -> str:
    return "--" + path.replace("_", "-")
