"""Annotations of an experiment's fields: ranges of annotated_types, and whether a resumed run may change them.

steps: Annotated[int, Ge(1), MAY_CHANGE] = 100_000
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from itertools import repeat
from typing import Annotated, Any, Literal

from annotated_types import Ge, GroupedMetadata, Gt, IsNotNan, Le, Lt, MaxLen, MinLen, MultipleOf, Predicate

MAY_CHANGE = "may change"
"""A resumed run may change this field, or any field of the dataclass in it: training does not depend on them."""
NOT_NAN = typing.get_args(IsNotNan[float])[1]
"""A number may be infinite."""

TYPE_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    list: "a list",
    dict: "an object",
    type(None): "None",
}
"""What a value of a type is called in an error."""


def check_ranges(config: Any, path: str = "") -> None:
    """Raises ValueError for the first field of a dataclass, or of one inside it, whose value is out of range.

    NaN is out of the range of every number, and so is infinity unless the field is declared `IsNotNan[float]`.
    """
    for where, allowed, value in _violations(config, type(config), path):
        raise ValueError(f"{where} must be {allowed}, not {value!r}")


def changeable(config: Any) -> Iterator[str]:
    """The paths of the fields that are declared with MAY_CHANGE."""
    return (path for path, _, kind in fields(config) if MAY_CHANGE in getattr(kind, "__metadata__", ()))


def fields(config: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Path, value and declared type of every field of a dataclass and of those inside it."""
    for name, value, kind in declared(config):
        yield join(path, name), value, kind
        if is_config(value):
            yield from fields(value, join(path, name))


def declared(config: Any) -> Iterator[tuple[str, Any, Any]]:
    """Name, value and declared type, annotations included, of every field of a dataclass."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        if field.init:
            yield field.name, getattr(config, field.name), hints[field.name]


def is_config(value: Any) -> bool:
    """Whether a value has fields of its own: an instance of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def join(path: str, name: str) -> str:
    """The path of a field of the dataclass at `path`, which is empty for the whole experiment."""
    return f"{path}.{name}" if path else name


def _violations(value: Any, kind: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """The paths of fields that are out of range, with what is allowed and their values."""
    metadata: Sequence[Any] = ()
    if typing.get_origin(kind) is Annotated:
        kind, metadata = kind.__origin__, kind.__metadata__
    if value is None:
        return
    rules = list(_rules([annotation for annotation in metadata if annotation != NOT_NAN]))
    if isinstance(value, float) and (math.isnan(value) or math.isinf(value) and NOT_NAN not in metadata):
        yield path, "a number" if NOT_NAN in metadata else "a finite number", value
    elif not all(_holds(rule, value) for rule, _ in rules):
        yield path, " and ".join(words for _, words in rules), value
    elif is_config(value):
        for name, inner, declaration in declared(value):
            yield from _violations(inner, declaration, join(path, name))
    elif typing.get_origin(kind) in (typing.Union, types.UnionType):
        members = [member for member in typing.get_args(kind) if _is_of(value, member)]
        yield from min((list(_violations(value, member, path)) for member in members), key=len, default=[])
    elif isinstance(value, Mapping):
        inside = (typing.get_args(kind) or (Any, Any))[-1]
        for key, item in value.items():
            yield from _violations(item, inside, join(path, str(key)))
    elif isinstance(value, tuple | list | Set):
        inside = typing.get_args(kind) or (Any,)
        several = typing.get_origin(kind) is not tuple or inside[-1] is Ellipsis
        for number, (item, inner) in enumerate(zip(value, repeat(inside[0]) if several else inside, strict=False)):
            yield from _violations(item, inner, f"{path}[{number}]")


def _rules(metadata: Sequence[Any]) -> Iterator[tuple[Callable[[Any], bool], str]]:
    """The conditions of a value, each with its words; annotations that are no ranges are passed over."""
    for annotation in metadata:
        bound: Any
        match annotation:
            case GroupedMetadata():
                yield from _rules(list(annotation))
            case Gt(gt=bound):
                yield lambda value, bound=bound: value > bound, f"above {bound}"
            case Ge(ge=bound):
                yield lambda value, bound=bound: value >= bound, f"at least {bound}"
            case Lt(lt=bound):
                yield lambda value, bound=bound: value < bound, f"below {bound}"
            case Le(le=bound):
                yield lambda value, bound=bound: value <= bound, f"at most {bound}"
            case MultipleOf(multiple_of=bound):
                yield lambda value, bound=bound: value % bound == 0, f"a multiple of {bound}"
            case MinLen(min_length=bound):
                yield lambda value, bound=bound: len(value) >= bound, f"of length {bound} at least"
            case MaxLen(max_length=bound):
                yield lambda value, bound=bound: len(value) <= bound, f"of length {bound} at most"
            case Predicate(func=function):
                yield function, f"such that {getattr(function, '__name__', function)} holds"


def _holds(rule: Callable[[Any], bool], value: Any) -> bool:
    try:
        return bool(rule(value))
    except TypeError:
        return False


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value can be of this member of a union."""
    kind = kind.__origin__ if typing.get_origin(kind) is Annotated else kind
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    kind = typing.get_origin(kind) or kind
    return not isinstance(kind, type) or isinstance(value, (int, float) if kind is float else kind)
