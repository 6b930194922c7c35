"""Qwen 2 and 3 (Yang et al. 2024 and 2025): Llama with biases, or with norms of queries and keys."""

from typing import Any

from transformer_jax.interop.config_keys import Keys
from transformer_jax.interop.llama import family, read_decoder, read_pattern, written_decoder, written_pattern
from transformer_jax.interop.rotary import written_rotary
from transformer_jax.models.decoder_only import DecoderOnlyConfig


def windows(keys: Keys) -> dict[str, Any]:
    """Which layers have a window: from some layer on, where it is switched on."""
    first, layers = keys.take("max_window_layers", 28), keys.take("num_hidden_layers")
    if not keys.take("use_sliding_window", False):
        keys.skip("sliding_window", "layer_types")
        return {}
    kinds = ["sliding_attention" if i >= first else "full_attention" for i in range(min(layers, 1000))]
    return read_pattern(keys, kinds)


def written_windows(config: DecoderOnlyConfig) -> dict[str, Any]:
    """The inverse of `windows`."""
    pattern = written_pattern(config)
    first = next((i for i, kind in enumerate(pattern["layer_types"]) if kind != "full_attention"), config.num_layers)
    used = pattern["sliding_window"] is not None
    return {"use_sliding_window": used, "max_window_layers": first} | (pattern if used else {})


def to_qwen2(keys: Keys) -> DecoderOnlyConfig:
    """Our configuration of Qwen 2."""
    return read_decoder(keys, attention_bias=True, attention_output_bias=False, **windows(keys))


def to_qwen3(keys: Keys) -> DecoderOnlyConfig:
    """Our configuration of Qwen 3."""
    bias = keys.take("attention_bias", False)
    keys.values.setdefault("head_dim", 128)
    return read_decoder(keys, attention_bias=bias, query_key_norm="head", **windows(keys))


def from_qwen2(config: DecoderOnlyConfig) -> dict[str, Any]:
    """Their configuration of Qwen 2."""
    return written_decoder(config) | written_rotary(config.positions) | written_windows(config)


def from_qwen3(config: DecoderOnlyConfig) -> dict[str, Any]:
    """Their configuration of Qwen 3."""
    return from_qwen2(config) | {"attention_bias": config.attention_bias}


QWEN2 = family("qwen2", "Qwen2ForCausalLM", to_qwen2, from_qwen2)
QWEN3 = family("qwen3", "Qwen3ForCausalLM", to_qwen3, from_qwen3)
