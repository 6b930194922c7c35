"""Fields of an experiment from the command line: `--model.num-layers 2`, dashes or underscores alike."""

import contextlib
import io
import itertools
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro
from tyro.conf import AvoidSubcommands, FlagConversionOff

from transformer_jax.data.nearest import did_you_mean
from transformer_jax.runs.experiment_file import field_types, needed

T = TypeVar("T")


def apply_overrides(experiment: T, arguments: Sequence[str], prog: str, *, only: str | tuple[str, ...] = "") -> T:
    """The experiment with some fields changed, whose paths begin with (one of) `only`.

    Raises ValueError, with one line, for an unknown field or a value that it cannot have. With `--help` prints every
    field with its default and raises SystemExit.
    """
    if {"-h", "--help"} & set(arguments):
        return _tyro(experiment, ["--help"], prog)
    options = _options(arguments)
    fields = {path: kind for path, kind in field_types(experiment).items() if path.startswith(only)}
    for path, _ in options:
        if path not in fields:
            raise ValueError(_unknown(path, list(fields)))
    try:
        return _parse(experiment, arguments)
    except ValueError:
        # Which of the options it was shows when each is parsed alone.
        for path, values in options:
            try:
                _parse(experiment, [f"--{path}", *values])
            except ValueError as error:
                refusal = re.match(r"Error parsing [\w.]+: (.*)", str(error))
                if refusal:  # The values have the right types, but the class they make up refuses them.
                    raise ValueError(refusal[1]) from error
                given = f", not {' '.join(values)!r}" if values else "; nothing was given"
                raise ValueError(f"{_option(path)} needs {needed(fields[path])}{given}") from error
        raise


def _parse(experiment: T, arguments: Sequence[str]) -> T:
    """What tyro makes of the arguments; its boxes of errors become a ValueError with one line."""
    # The looks of a box depend on the stream: with this one it is drawn in UTF-8 and without colours.
    boxes = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    try:
        with contextlib.redirect_stdout(boxes), contextlib.redirect_stderr(boxes):
            return _tyro(experiment, arguments)
    except SystemExit:
        boxes.seek(0)
        lines = [line.strip("│ \n") for line in boxes if line[0] not in "╭╰"]
        message = itertools.takewhile(lambda line: not line.startswith("─"), lines)
        raise ValueError(" ".join(message)) from None


def _tyro(experiment: T, arguments: Sequence[str], prog: str | None = None) -> T:
    kind: Any = type(experiment)
    return tyro.cli(kind, default=experiment, args=arguments, prog=prog, config=(AvoidSubcommands, FlagConversionOff))


def _options(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Field paths and the values that follow them."""
    options: list[tuple[str, list[str]]] = []
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
    inside = [field for field in fields if field.startswith(f"{path}.")]
    if inside:
        return f"{_option(path)} is chosen in the experiment's file; change its fields, such as {_option(inside[0])}"
    near = did_you_mean(_option(path), map(_option, fields))
    namesakes = [field for field in fields if field.endswith(f".{path}")]
    if namesakes:
        near = f"; did you mean {_option(namesakes[0])}?"
    return f"unknown field {_option(path)}{near or '; --help lists every field'}"


def _option(path: str) -> str:
    return "--" + path.replace("_", "-")
