"""Fields of an experiment from the command line: `--model.num-layers 2`, dashes or underscores alike.

A field whose class has `kinds` takes the name of one (`--model.positions learned`), whose fields can then be set.
"""

import contextlib
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import tyro
from tyro.conf import AvoidSubcommands, FlagConversionOff

from transformer_jax.data.fields import check_ranges
from transformer_jax.data.nearest import did_you_mean
from transformer_jax.runs.experiment_file import choices, field_types, needed, replaced
from transformer_jax.runs.warm_start import with_published
from transformer_jax.training.experiment import Experiment

T = TypeVar("T")
Option = tuple[str, list[str]]
"""The path of a field, and its values."""
INITIALIZE_FROM = "train.initialize_from"
BEGINNING = "take vocabulary and parameters of this run or published model, of the latter the sizes as well"
"""Help on where a run begins."""


def apply_overrides(experiment: T, arguments: Sequence[str], prog: str, *, only: str | tuple[str, ...] = "") -> T:
    """The experiment with changes to fields whose paths begin with (one of) `only`; ValueError for a wrong one.

    With `--help` prints every field with its default and raises SystemExit.
    """
    if {"-h", "--help"} & set(arguments):
        for path, kinds in choices(experiment).items():
            print(f"{_option(path)} {{{','.join(kinds)}}}")
        return _tyro(experiment, ["--help"], prog)
    experiment, options = _choose(experiment, _options(arguments), only)
    fields = {path: kind for path, kind in field_types(experiment).items() if path.startswith(only)}
    for path, _ in options:
        if path not in fields:
            raise ValueError(_unknown(path, list(fields)))
    try:
        changed = _parse(experiment, options)
    except ValueError:
        for option in options:  # parsed alone, each shows whether it was the wrong one
            _parse_alone(experiment, option, fields)
        raise
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


def _parse(experiment: T, options: Sequence[Option]) -> T:
    """The experiment that tyro reads from the options; its boxes of errors become a ValueError with one line."""
    arguments: list[str] = []
    for path, values in options:  # with "=", a value may begin with dashes
        arguments += [f"--{path}={values[0]}"] if len(values) == 1 else [f"--{path}", *values]
    # To this stream a box is drawn in UTF-8 and without colours.
    boxes = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    try:
        with contextlib.redirect_stdout(boxes), contextlib.redirect_stderr(boxes):
            return _tyro(experiment, arguments)
    except SystemExit:
        boxes.seek(0)
        lines = [line.strip("│ \n") for line in boxes if line[0] not in "╭╰"]
        message = itertools.takewhile(lambda line: not line.startswith("─"), lines)
        raise ValueError(" ".join(message)) from None


def _parse_alone(experiment: Any, option: Option, fields: Mapping[str, Any]) -> None:
    """Raises ValueError, in words for this option, if it cannot be parsed."""
    path, values = option
    try:
        _parse(experiment, [option])
    except ValueError as error:
        # The values have the right types, but the class that they are fields of refuses them.
        if refusal := re.match(r"Error parsing [\w.]+: (.*)", str(error)):
            raise ValueError(refusal[1]) from error
        raise ValueError(f"{_option(path)} needs {needed(fields[path])}{_given(values)}") from error


def _tyro(experiment: T, arguments: Sequence[str], prog: str | None = None) -> T:
    kind: Any = type(experiment)
    return tyro.cli(kind, default=experiment, args=arguments, prog=prog, config=(AvoidSubcommands, FlagConversionOff))


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


def changed(
    experiment: Experiment, overrides: Sequence[str], origin: str | None, directory: Path, prog: str
) -> Experiment:
    """The experiment with the fields given, over those of the published model that it begins from, if it does."""
    if place := origin or given(overrides, INITIALIZE_FROM):
        experiment = replace(experiment, train=replace(experiment.train, initialize_from=place))
        overrides = [*overrides, f"--{INITIALIZE_FROM}={place}"]
    return apply_overrides(with_published(experiment, directory), overrides, prog)
