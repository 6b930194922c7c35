"""Mistral (Jiang et al. 2023): Llama with a window, in all layers or in none."""

from typing import Any

from transformer_jax.interop.config_keys import Keys
from transformer_jax.interop.llama import family, read_decoder, read_pattern, written_decoder, written_pattern
from transformer_jax.interop.rotary import written_rotary
from transformer_jax.models.decoder_only import DecoderOnlyConfig


def to_config(keys: Keys) -> DecoderOnlyConfig:
    """Our configuration."""
    window = keys.values.setdefault("sliding_window", 4096)  # null means none
    return read_decoder(keys, **read_pattern(keys, ["full_attention" if window is None else "sliding_attention"]))


def from_config(config: DecoderOnlyConfig) -> dict[str, Any]:
    """Their configuration."""
    window = written_pattern(config)["sliding_window"]
    return written_decoder(config) | written_rotary(config.positions) | {"sliding_window": window}


MISTRAL = family("mistral", "MistralForCausalLM", to_config, from_config)
