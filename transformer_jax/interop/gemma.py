"""Gemma 2 and the text models of Gemma 3 (Gemma Team 2024 and 2025)."""

import dataclasses
from typing import Any

from transformer_jax.interop.config_keys import THEIR_ACTIVATIONS, Keys
from transformer_jax.interop.llama import (
    LAYER,
    OURS,
    WITHOUT_NORMS,
    family,
    read_decoder,
    read_pattern,
    written_decoder,
    written_pattern,
)
from transformer_jax.interop.rotary import read_rotary, written_rotary
from transformer_jax.interop.rules import norm
from transformer_jax.models.decoder_only import DecoderOnlyConfig
from transformer_jax.nn.positions import Rotary

WINDOW = 4096
"""Tokens that a local layer sees, itself included, where a config.json does not say how many."""


def both(keys: Keys, period: int, **others: Any) -> DecoderOnlyConfig:
    """What the two have in common; the last of `period` layers has no window unless `layer_types` says else."""
    keys.only("use_bidirectional_attention", False)
    keys.values = {"tie_word_embeddings": True, "head_dim": 256, "sliding_window": WINDOW} | keys.values
    keys.values.setdefault("hidden_activation", keys.take("hidden_act", "gelu_pytorch_tanh"))
    period = min(max(keys.take("sliding_window_pattern", keys.take("_sliding_window_pattern", period)), 1), 1000)
    kinds = ["sliding_attention"] * (period - 1) + ["full_attention"]
    return read_decoder(
        keys,
        "hidden_activation",
        attention_bias=keys.take("attention_bias", False),
        attention_scale=keys.take("query_pre_attn_scalar", 256, float) ** -0.5,
        norm="zero_centred_rms_norm",
        norm_placement="both",
        embedding_scale=True,
        **read_pattern(keys, kinds),
        **others,
    )


def to_gemma2(keys: Keys) -> DecoderOnlyConfig:
    """Our configuration of Gemma 2."""
    # A cap of null is none; only where the key lacks it has a default.
    keys.values = {f"{name}_logit_softcapping": cap for name, cap in CAPS.items()} | keys.values
    cap, logits_cap = (keys.take(f"{name}_logit_softcapping", 0.0) for name in CAPS)
    return both(keys, 2, soft_cap=cap, logits_soft_cap=logits_cap)


def to_gemma3(keys: Keys) -> DecoderOnlyConfig:
    """Our configuration of Gemma 3."""
    for name in CAPS:
        keys.only(f"{name}_logit_softcapping")
    positions = read_rotary(keys, base=1_000_000.0, layers="full_attention")
    local = read_rotary(keys, base_key="rope_local_base_freq", layers="sliding_attention", scaled=False)
    config = both(keys, 6, query_key_norm="head", positions=positions)
    return config if "local" not in config.pattern else _with(config, local)


def _with(config: DecoderOnlyConfig, local: Rotary) -> DecoderOnlyConfig:
    return dataclasses.replace(config, local_positions=local)


CAPS = {"attn": 50.0, "final": 30.0}


def written_both(config: DecoderOnlyConfig) -> dict[str, Any]:
    """The inverse of `both`."""
    scale = config.attention_scale or config.head_width**-0.5
    scalar, pattern = scale**-2, written_pattern(config)
    return {
        **written_decoder(config, "hidden_activation"),
        **pattern,
        "sliding_window": pattern["sliding_window"] or WINDOW,  # transformers wants one even where no layer has it
        "hidden_activation": (THEIR_ACTIVATIONS | {"gelu_tanh": "gelu_pytorch_tanh"})[config.activation],
        "attention_bias": config.attention_bias,
        "query_pre_attn_scalar": round(scalar) if abs(scalar - round(scalar)) < 1e-9 * scalar else scalar,
    }


def from_gemma2(config: DecoderOnlyConfig) -> dict[str, Any]:
    """Their configuration of Gemma 2."""
    caps = {
        "attn_logit_softcapping": config.soft_cap or None,
        "final_logit_softcapping": config.logits_soft_cap or None,
    }
    return written_both(config) | written_rotary(config.positions) | caps


def from_gemma3(config: DecoderOnlyConfig) -> dict[str, Any]:
    """Their configuration of Gemma 3."""
    local = written_rotary(config.local_positions or config.positions, base_key="rope_local_base_freq", scaled=False)
    return written_both(config) | written_rotary(config.positions) | local


RULES = (
    *WITHOUT_NORMS,
    *norm(f"{LAYER}.input_layernorm", f"{OURS}/self_attention_norm"),
    *norm(f"{LAYER}.post_attention_layernorm", f"{OURS}/self_attention_output_norm"),
    *norm(f"{LAYER}.pre_feedforward_layernorm", f"{OURS}/feed_forward_norm"),
    *norm(f"{LAYER}.post_feedforward_layernorm", f"{OURS}/feed_forward_output_norm"),
)
GEMMA2 = family("gemma2", "Gemma2ForCausalLM", to_gemma2, from_gemma2, RULES)
GEMMA3 = family("gemma3_text", "Gemma3ForCausalLM", to_gemma3, from_gemma3, RULES)
