"""A foreign family of models: what its tensors and the keys of its configuration are called."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from transformer_jax.interop.config_keys import Keys
from transformer_jax.interop.rules import Rule, pattern_of
from transformer_jax.nn.inputs import Patches

OURS_ALONE = ("attention_kernel", "dtype", "head", "initializer", "num_outputs", "output_bias", "remat", "unroll")
OURS_ALONE += ("layer_drop", "stochastic_depth", "vocab_multiple")
"""Fields that no other implementation has to know, and those that follow from a model's parameters alone."""
POOLER = ("pooler", "pooling", "pooler_activation", "pooler_norm", "pooled_tokens", "head_dropout")
"""Fields of heads that see more than tokens."""


class CannotExpressError(ValueError):
    """A model that a family has no place for."""

    def __init__(self, message: str, fields: int = 1_000):
        super().__init__(message)
        self.fields = fields
        """How many of its fields stand in the way."""


class Architecture(NamedTuple):
    """A class of theirs: a body with a head."""

    name: str
    head: str | None = None
    """`model.head` here; None in models without that field."""
    rules: tuple[Rule, ...] = ()
    """Of the head. A checkpoint has it if it has the first of these."""


@dataclass(frozen=True)
class Family:
    """One kind of published model."""

    name: str
    """`model_type` in config.json."""
    architectures: tuple[Architecture, ...]
    """The classes that can be read; of those with the same head, the first is written."""
    rules: tuple[Rule, ...]
    """Of the body."""
    to_config: Callable[[Keys], Any]
    """Our configuration, without the head."""
    from_config: Callable[[Any], dict[str, Any]]
    """The inverse, as the JSON of config.json."""
    rules_for: Callable[[Any], list[Rule]] = lambda config: []
    """Further rules of the body, which depend on the configuration."""
    prefix: str = ""
    """In front of the body's tensors, where there is a head; it may be absent."""
    ignored: tuple[str, ...] = ()
    """Tensors that are no parameters, numbers replaced by `{}`."""
    computed: Callable[[Any], Mapping[str, np.ndarray]] = lambda config: {}
    """Tensors that are no parameters here but follow from the configuration; they are written as well."""
    preprocessor: Callable[[Any], str] = lambda config: ""
    """The content of preprocessor_config.json, in families that have one."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Tensors that may be stored beside the one that they are tied to."""

    def optional(self) -> set[str]:
        """The names of tensors that may be there without being needed, those of all heads; `{}` for numbers."""
        rules = [rule for architecture in self.architectures for rule in architecture.rules]
        return {pattern_of(rule.theirs) for rule in rules} | {*self.ignored, *self.copies}

    def normalised(self, name: str) -> str:
        """A tensor's name as the rules have it: with the prefix, and in today's words for a norm's parts."""
        for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
            name = name.removesuffix(old) + new if name.endswith(f"LayerNorm{old}") else name
        known = self.optional() | {pattern_of(rule.theirs) for rule in self.rules}
        return name if pattern_of(name) in known or pattern_of(self.prefix + name) not in known else self.prefix + name

    def architecture(self, config: Any, name: str = "") -> Architecture:
        """The first class whose name ends so and that can express a configuration; CannotExpressError if none can."""
        head, reasons = getattr(config, "head", None), []
        for one in self.architectures:
            if one.head in (None, head) and one.name.endswith(name):
                try:
                    self._check(config, one)
                    return one
                except CannotExpressError as error:
                    reasons.append(error)
        if reasons:
            raise reasons[0]
        raise CannotExpressError(f"{self.name} has no {name or f'architecture with the head {head}'}")

    def _check(self, config: Any, architecture: Architecture) -> None:
        """Raises CannotExpressError for a configuration with a field that the class cannot express."""
        tensors = [rule.theirs for rule in architecture.rules]
        try:
            back = self.to_config(Keys(self.from_config(config), tensors))
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise CannotExpressError(f"{self.name} cannot express this model: {error}", fields=900) from error
        if type(back) is not type(config):
            raise CannotExpressError(f"{self.name} is a {type(back).__name__}, not a {type(config).__name__}")
        back = dataclasses.replace(back, head=config.head) if hasattr(config, "head") else back
        ours, theirs = _canonical(config), _canonical(back)
        different = [f"model.{name} {value!r}" for name, value in ours.items() if not _same(value, theirs.get(name))]
        if different:
            raise CannotExpressError(f"{self.name} cannot express {', '.join(different)}", fields=len(different))


def _canonical(config: Any) -> dict[str, Any]:
    """The fields that decide a model's numbers, defaults that follow from others filled in."""
    fields = {each.name: getattr(config, each.name) for each in dataclasses.fields(config)}
    implied = {"num_kv_heads": config.kv_heads, "head_dim": config.head_width, "value_dim": config.head_width}
    implied |= {"attention_scale": config.head_width**-0.5, "embedding_size": config.d_model}
    implied |= dict.fromkeys(("key_bias", "attention_output_bias"), config.attention_bias)
    fields |= {name: value for name, value in implied.items() if name in fields and fields[name] is None}
    if "encoder" in fields:
        fields |= {"encoder": _canonical(config.encoder) if config.encoder else None}
        fields |= {"num_decoder_layers": config.decoder_layers}
    if isinstance(patches := fields.get("input"), Patches):  # their mean and deviation stand in another file
        fields["input"] = dataclasses.replace(patches, mean=(), std=())
    unused = [*OURS_ALONE]
    unused += ["source_vocab_size"] if fields.get("share_embeddings") else []
    unused += [] if "local" in config.pattern else ["window", "local_positions"]
    unused += [] if fields.get("head") in ("sequence", "tokens", "pooled", "pretraining") else POOLER
    return {name: value for name, value in fields.items() if name not in unused}


def _same(one: Any, other: Any) -> bool:
    return math.isclose(one, other) if isinstance(one, float) and isinstance(other, float) else one == other
