"""Rotary positions as config.json has them: `rope_theta` with `rope_scaling`, or `rope_parameters` since 2025."""

import dataclasses
from typing import Any

from transformer_jax.interop.config_keys import Keys
from transformer_jax.nn import rotary_scaling as scaling
from transformer_jax.nn.positions import Rotary

ORIGINAL = "original_max_position_embeddings"
FACTOR = {"factor": "factor"}
LLAMA3 = {"low_freq_factor": "low_frequency_factor", "high_freq_factor": "high_frequency_factor"}
YARN = {"beta_fast": "beta_fast", "beta_slow": "beta_slow", "attention_factor": "attention_factor"}
KINDS: dict[str, tuple[type[scaling.RotaryScaling], dict[str, str]]] = {
    "default": (scaling.RotaryScaling, {}),
    "linear": (scaling.Interpolation, FACTOR),
    "dynamic": (scaling.Dynamic, FACTOR),
    "llama3": (scaling.Llama3, FACTOR | LLAMA3 | {ORIGINAL: "original_length"}),
    "yarn": (scaling.Yarn, FACTOR | YARN | {ORIGINAL: "original_length"}),
}
"""By `rope_type`: the kind here, and its fields by their keys."""


def read_rotary(
    keys: Keys,
    *,
    base: float = 10_000.0,
    fraction: float = 1.0,
    layers: str = "",
    base_key: str = "rope_theta",
    fraction_key: str = "partial_rotary_factor",
    scaled: bool = True,
) -> Rotary:
    """The positions of all layers, or of the kind `layers`; `base` and `fraction` are the family's defaults."""
    old = keys.take("rope_scaling", None, dict) or {}
    new = keys.take("rope_parameters", None, dict) or {}
    new = new.get(layers, new) or {}
    if not isinstance(new, dict):
        raise ValueError(f"rope_parameters has {new!r} where the values of a kind of positions belong")
    values: dict[str, Any] = {
        "rope_theta": keys.take(base_key, base, float),
        "partial_rotary_factor": keys.take(fraction_key, fraction, float),
        **(old if scaled else {}),
        **{name: value for name, value in new.items() if not isinstance(value, dict)},
    }
    inner = Keys(values)
    inner.only("truncate", True)
    name = inner.take("rope_type", inner.take("type", "default"))
    if name not in KINDS:
        raise ValueError(f"rope_type {name!r} is none of those known here: {', '.join(KINDS)}")
    kind, table = KINDS[name]
    types = {each.name: int if each.name == "original_length" else float for each in dataclasses.fields(kind)}
    fields = {ours: inner.take(theirs, None, types[ours]) for theirs, ours in table.items()}
    if "original_length" in types and fields.get("original_length") is None:
        fields["original_length"] = keys.take("max_position_embeddings")
    given = {ours: types[ours](value) for ours, value in fields.items() if value is not None}
    positions = Rotary(
        base=float(inner.take("rope_theta", base)),
        fraction=float(inner.take("partial_rotary_factor", fraction)),
        scaling=kind(**given),
    )
    if left := inner.left():
        raise ValueError(f"the rotary positions have {', '.join(left)}, which {name} does not know here")
    return positions


def written_rotary(
    positions: Any, *, base_key: str = "rope_theta", fraction_key: str = "partial_rotary_factor", scaled: bool = True
) -> dict[str, Any]:
    """The inverse of `read_rotary`, in the keys that old and new programs read; ValueError for other positions."""
    if not isinstance(positions, Rotary):
        raise ValueError(f"its positions are rotary, not {type(positions).__name__}")
    name, table = next((name, table) for name, (kind, table) in KINDS.items() if kind is type(positions.scaling))
    keys = {base_key: positions.base} | ({} if positions.fraction == 1 else {fraction_key: positions.fraction})
    if name == "default" or not scaled:
        return keys
    values = {theirs: getattr(positions.scaling, ours) for theirs, ours in table.items()}
    values = {theirs: value for theirs, value in values.items() if value is not None}
    return keys | {"rope_scaling": {"rope_type": name, **values}}
