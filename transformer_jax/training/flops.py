"""Floating-point operations, counted in the traced program."""

import math
from collections.abc import Iterator
from typing import Any

CUDNN = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}
"""Matrix products in cuDNN's attention; the backward pass computes the scores once more."""


def matmul_flops(jaxpr: Any) -> float:
    """Counts the operations of all matrix products of a traced program (`jax.make_jaxpr`), on all devices together.

    A product of `[batch, m, k]` and `[batch, k, n]` is 2 * batch * m * k * n operations, in a loop each time. Fused
    attention counts like the plain formula, scores that a mask hides included.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        elif equation.primitive.name in CUDNN:
            query, key = (variable.aval.shape for variable in equation.invars[:2])
            total += CUDNN[equation.primitive.name] * 2.0 * math.prod(query) * key[1]
        total += _times(equation) * sum(matmul_flops(inner) for inner in _inner(equation))
    return total


def _times(equation: Any) -> int:
    """How often the programs inside of an equation run, on all devices together."""
    match equation.primitive.name:
        case "scan":
            return equation.params["length"]
        case "pallas_call":
            return math.prod(equation.params["grid_mapping"].grid)
        case "shard_map":
            return equation.params["mesh"].size
    return 1


def _inner(equation: Any) -> Iterator[Any]:
    """The programs inside of a loop, a call or a branch; of branches only the costliest."""
    if equation.primitive.name == "cond":
        yield max((branch.jaxpr for branch in equation.params["branches"]), key=matmul_flops)
        return
    for value in equation.params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if hasattr(one, "eqns"):
                yield one
            elif hasattr(getattr(one, "jaxpr", None), "eqns"):
                yield one.jaxpr
