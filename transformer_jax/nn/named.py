"""Choosing one of several named things, with an error that lists them."""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def choose(what: str, name: str, table: Mapping[str, T]) -> T:
    """`table[name]`; raises ValueError naming the known ones otherwise."""
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(table)}")
    return table[name]
