"""SmolLM3 (Hugging Face 2025): Llama with layers that know no positions."""

from typing import Any

from transformer_jax.interop.config_keys import Keys
from transformer_jax.interop.llama import family, layer_kinds, read_decoder, read_kinds, written_decoder
from transformer_jax.interop.rotary import read_rotary, written_rotary
from transformer_jax.models.decoder_only import DecoderOnlyConfig

KINDS = {1: "global", 0: "no_positions"}


def to_config(keys: Keys) -> DecoderOnlyConfig:
    """Our configuration."""
    keys.only("use_sliding_window", False)
    keys.skip("sliding_window", "layer_types", "max_window_layers")
    keys.values.setdefault("tie_word_embeddings", True)
    interval = max(keys.take("no_rope_layer_interval", 4), 1)
    default = [int((i + 1) % interval != 0) for i in range(min(interval, 1000))]
    return read_decoder(
        keys,
        attention_bias=keys.take("attention_bias", False),
        feed_forward_bias=keys.take("mlp_bias", False),
        positions=read_rotary(keys, base=2_000_000.0),
        pattern=read_kinds(keys, "no_rope_layers", default, KINDS),
    )


def from_config(config: DecoderOnlyConfig) -> dict[str, Any]:
    """Their configuration."""
    kinds = {ours: theirs for theirs, ours in KINDS.items()}
    return {
        **written_decoder(config),
        **written_rotary(config.positions),
        "attention_bias": config.attention_bias,
        "mlp_bias": config.feed_forward_bias,
        "use_sliding_window": False,
        "no_rope_layers": [kinds.get(kind, kind) for kind in layer_kinds(config)],
    }


SMOLLM3 = family("smollm3", "SmolLM3ForCausalLM", to_config, from_config)
