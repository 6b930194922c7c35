"""Llama 1 to 3 (Touvron et al. 2023) and what its many kin have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformer_jax.interop.config_keys import SIZES, THEIR_ACTIVATIONS, Keys, written
from transformer_jax.interop.family import Architecture, Family
from transformer_jax.interop.rotary import read_rotary, written_rotary
from transformer_jax.interop.rules import Rule, attention, linear, norm
from transformer_jax.models.config import TransformerConfig
from transformer_jax.models.decoder_only import DecoderOnlyConfig, llama

OTHERS = {"head_dim": "head_dim", "attention_dropout": "attention_dropout", "tie_word_embeddings": "tie_output"}
DEFAULTS: dict[str, Any] = {"head_dim": None, "attention_dropout": 0.0, "tie_word_embeddings": False}
KINDS = {"full_attention": "global", "sliding_attention": "local"}


def shortest(kinds: Sequence[str]) -> tuple[str, ...]:
    """The shortest pattern that gives these kinds of layers when it is repeated."""
    return next(
        tuple(kinds[:size])
        for size in range(1, len(kinds) + 1)
        if all(kind == kinds[i % size] for i, kind in enumerate(kinds))
    )


def layer_kinds(config: TransformerConfig) -> list[str]:
    """The kind of every layer."""
    return [config.pattern[i % len(config.pattern)] for i in range(config.num_layers)]


def read_kinds(keys: Keys, name: str, default: Sequence[Any], known: Mapping[Any, str]) -> tuple[str, ...]:
    """Our pattern from a key that lists the kind of every layer; `default` is the pattern where it lacks."""
    given, layers = keys.take(name, []), keys.take("num_hidden_layers")
    if given and (len(given) != layers or any(kind not in list(known) for kind in given)):
        raise ValueError(f"{name} has one of {', '.join(map(str, known))} for each of {layers} layers, not {given}")
    return shortest([known[kind] for kind in given or default])


def read_pattern(keys: Keys, default: Sequence[str] = ("full_attention",)) -> dict[str, Any]:
    """`pattern` and `window` from the kinds of layers; `default` is the pattern of a config.json without `layer_types`.

    Their window counts the token itself.
    """
    pattern, window = read_kinds(keys, "layer_types", default, KINDS), keys.take("sliding_window", None)
    if "local" not in pattern:
        return {}
    if window is None or window < 2:
        raise ValueError(f"sliding_window is 2 or more, not {window}")
    return {"pattern": pattern, "window": window - 1}


def written_pattern(config: DecoderOnlyConfig) -> dict[str, Any]:
    """The inverse of `read_pattern`."""
    theirs = {ours: their for their, ours in KINDS.items()}
    kinds = layer_kinds(config)
    if any(kind not in theirs for kind in kinds):
        raise ValueError(f"it knows no layers of the kinds {', '.join(sorted(set(kinds) - theirs.keys()))}")
    window = config.window + 1 if "local" in kinds else None
    return {"layer_types": [theirs[kind] for kind in kinds], "sliding_window": window}


def read_decoder(
    keys: Keys, activation: str = "hidden_act", *, epsilon: float = 1e-6, **others: Any
) -> DecoderOnlyConfig:
    """The configuration that the kin of Llama have in common, with `others`; rotary positions unless they have some."""
    keys.only("is_causal", True)
    fields = keys.fields(SIZES | OTHERS, **DEFAULTS)
    positions = others.pop("positions", None)
    return llama(
        **fields,
        num_kv_heads=keys.take("num_key_value_heads", fields["num_heads"]),
        activation=keys.activation(activation, "silu"),
        norm_epsilon=keys.take("rms_norm_eps", epsilon),
        positions=read_rotary(keys) if positions is None else positions,
        **others,
    )


def written_decoder(config: DecoderOnlyConfig, activation: str = "hidden_act") -> dict[str, Any]:
    """The inverse of `read_decoder`, without positions."""
    return written(SIZES | OTHERS, config) | {
        "head_dim": config.head_width,
        "num_key_value_heads": config.kv_heads,
        activation: THEIR_ACTIVATIONS[config.activation],
        "rms_norm_eps": config.norm_epsilon,
    }


def to_config(keys: Keys) -> DecoderOnlyConfig:
    """Our configuration."""
    keys.only("pretraining_tp", 1)
    keys.skip("is_llama_config", "max_sequence_length")
    bias, feed_forward_bias = keys.take("attention_bias", False), keys.take("mlp_bias", False)
    return read_decoder(keys, attention_bias=bias, feed_forward_bias=feed_forward_bias)


def from_config(config: DecoderOnlyConfig) -> dict[str, Any]:
    """Their configuration."""
    biases = {"attention_bias": config.attention_bias, "mlp_bias": config.feed_forward_bias}
    return written_decoder(config) | written_rotary(config.positions) | biases


LAYER, OURS = "model.layers.{}", "decoder/{}"
WITHOUT_NORMS = (
    Rule("model.embed_tokens.weight", ("embedding/table",), "plain"),
    *attention(f"{LAYER}.self_attn", f"{OURS}/self_attention"),
    *norm(f"{LAYER}.self_attn.q_norm", f"{OURS}/self_attention/query_norm"),
    *norm(f"{LAYER}.self_attn.k_norm", f"{OURS}/self_attention/key_norm"),
    *linear(f"{LAYER}.mlp.gate_proj", f"{OURS}/feed_forward/gate"),
    *linear(f"{LAYER}.mlp.up_proj", f"{OURS}/feed_forward/input"),
    *linear(f"{LAYER}.mlp.down_proj", f"{OURS}/feed_forward/output"),
    *norm("model.norm", "decoder/final_norm"),
    Rule("lm_head.weight", ("output/projection/kernel",)),
)
RULES = (
    *WITHOUT_NORMS,
    *norm(f"{LAYER}.input_layernorm", f"{OURS}/self_attention_norm"),
    *norm(f"{LAYER}.post_attention_layernorm", f"{OURS}/feed_forward_norm"),
)


def family(name: str, architecture: str, to_config: Any, from_config: Any, rules: Sequence[Rule] = RULES) -> Family:
    """A family with the tensors of Llama."""
    return Family(
        name=name,
        architectures=(Architecture(architecture),),
        rules=tuple(rules),
        to_config=to_config,
        from_config=from_config,
        prefix="model.",
        ignored=(f"{LAYER}.self_attn.rotary_emb.inv_freq",),
        copies={"lm_head.weight": "model.embed_tokens.weight"},
    )


LLAMA = family("llama", "LlamaForCausalLM", to_config, from_config)
