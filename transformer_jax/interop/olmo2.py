"""OLMo 2 (Team OLMo 2024): norms behind the sub-layers alone, and one over all heads of queries and of keys."""

from typing import Any

from transformer_jax.interop.config_keys import Keys
from transformer_jax.interop.llama import LAYER, OURS, WITHOUT_NORMS, family, read_decoder, written_decoder
from transformer_jax.interop.rotary import written_rotary
from transformer_jax.interop.rules import norm
from transformer_jax.models.decoder_only import DecoderOnlyConfig


def to_config(keys: Keys) -> DecoderOnlyConfig:
    """Our configuration."""
    bias = keys.take("attention_bias", False)
    form = {"attention_bias": bias, "query_key_norm": "all", "norm_placement": "output"}
    return read_decoder(keys, epsilon=1e-5, **form)


def from_config(config: DecoderOnlyConfig) -> dict[str, Any]:
    """Their configuration."""
    return written_decoder(config) | written_rotary(config.positions) | {"attention_bias": config.attention_bias}


RULES = (
    *WITHOUT_NORMS,
    *norm(f"{LAYER}.post_attention_layernorm", f"{OURS}/self_attention_output_norm"),
    *norm(f"{LAYER}.post_feedforward_layernorm", f"{OURS}/feed_forward_output_norm"),
)
OLMO2 = family("olmo2", "Olmo2ForCausalLM", to_config, from_config, RULES)
