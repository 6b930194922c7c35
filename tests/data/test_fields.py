"""Ranges declared beside fields, found in whatever an experiment is built of."""

import math
from dataclasses import dataclass, field
from typing import Annotated

import pytest
from annotated_types import Ge, Gt, Interval, IsNotNan, Lt, MinLen, MultipleOf, Predicate

from transformer_jax.data.fields import MAY_CHANGE, changeable, check_ranges


@dataclass(frozen=True)
class Part:
    share: Annotated[float, Gt(0), Lt(1)] = 0.5
    most: Annotated[IsNotNan[float], Ge(0)] = math.inf
    plain: float = 0.0


@dataclass(frozen=True)
class Whole:
    steps: Annotated[int, Ge(1), MAY_CHANGE] = 1
    stop: Annotated[int, Ge(1)] | None = None
    rows: Annotated[int, MultipleOf(8)] = 8
    ids: tuple[Annotated[int, Ge(0)], ...] = ()
    span: tuple[str, Annotated[int, Ge(0)]] = ("", 0)
    weights: dict[str, Annotated[float, Interval(ge=0, lt=1)]] = field(default_factory=dict)
    name: Annotated[str, MinLen(1)] | Annotated[int, Ge(0)] = "x"
    text: Annotated[str, Predicate(str.isascii)] = ""
    part: Part = Part()
    free: Annotated[Part, MAY_CHANGE] = Part()
    parts: tuple[Part, ...] = ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "run.steps must be at least 1, not 0"),
        ({"stop": 0}, "run.stop must be at least 1, not 0"),
        ({"rows": 9}, "run.rows must be a multiple of 8, not 9"),
        ({"ids": (1, -1)}, "run.ids[1] must be at least 0, not -1"),
        ({"span": ("", -1)}, "run.span[1] must be at least 0, not -1"),
        ({"weights": {"a": 1.0}}, "run.weights.a must be at least 0 and below 1, not 1.0"),
        ({"name": -1}, "run.name must be at least 0, not -1"),
        ({"name": ""}, "run.name must be of length 1 at least, not ''"),
        ({"text": "é"}, "run.text must be such that isascii holds, not 'é'"),
        ({"part": Part(share=1.5)}, "run.part.share must be above 0 and below 1, not 1.5"),
        ({"part": Part(share=math.nan)}, "run.part.share must be a finite number, not nan"),
        ({"part": Part(plain=math.nan)}, "run.part.plain must be a finite number, not nan"),
        ({"part": Part(plain=-math.inf)}, "run.part.plain must be a finite number, not -inf"),
        ({"part": Part(most=math.nan)}, "run.part.most must be a number, not nan"),
        ({"part": Part(most=-math.inf)}, "run.part.most must be at least 0, not -inf"),
        ({"parts": (Part(), Part(share=0.0))}, "run.parts[1].share must be above 0 and below 1, not 0.0"),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_path_and_what_is_allowed(change, message):
    with pytest.raises(ValueError) as caught:
        check_ranges(Whole(**change), "run")
    assert str(caught.value) == message


def test_values_at_the_edges_are_allowed():
    check_ranges(Whole(stop=1, ids=(0,), weights={"a": 0.0}, name=0, part=Part(share=0.999), parts=(Part(),)))


def test_what_may_change_is_declared_beside_the_field():
    assert list(changeable(Whole())) == ["steps", "free"]
