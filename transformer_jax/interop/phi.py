"""Phi 1, 1.5 and 2 (Li et al. 2023): parallel branches behind one norm, and a bias of the logits."""

from typing import Any

from transformer_jax.interop.config_keys import SIZES, THEIR_ACTIVATIONS, Keys, written
from transformer_jax.interop.family import Architecture, Family
from transformer_jax.interop.rotary import read_rotary, written_rotary
from transformer_jax.interop.rules import Rule, attention, linear, norm
from transformer_jax.models.decoder_only import DecoderOnlyConfig, gpt2

OTHERS = {
    "resid_pdrop": "dropout",
    "attention_dropout": "attention_dropout",
    "layer_norm_eps": "norm_epsilon",
}
DEFAULTS: dict[str, Any] = {"resid_pdrop": 0.0, "attention_dropout": 0.0, "layer_norm_eps": 1e-5}
FORM: dict[str, Any] = {"parallel": True, "parallel_norm": True, "tie_output": False, "output_bias": True}


def to_config(keys: Keys) -> DecoderOnlyConfig:
    """Our configuration."""
    keys.only("qk_layernorm", False)
    keys.only("tie_word_embeddings", False)
    fields = keys.fields(SIZES | OTHERS, **DEFAULTS)
    keys.in_training("embd_pdrop", fields["dropout"])
    return gpt2(
        **fields,
        **FORM,
        num_kv_heads=keys.take("num_key_value_heads", fields["num_heads"]),
        activation=keys.activation("hidden_act", "gelu_new"),
        positions=read_rotary(keys, fraction=0.5),
    )


def from_config(config: DecoderOnlyConfig) -> dict[str, Any]:
    """Their configuration."""
    return {
        **written(SIZES | OTHERS, config),
        "partial_rotary_factor": 1.0,
        **written_rotary(config.positions),
        "num_key_value_heads": config.kv_heads,
        "embd_pdrop": config.dropout,
        "hidden_act": THEIR_ACTIVATIONS[config.activation],
    }


LAYER, OURS = "model.layers.{}", "decoder/{}"
PHI = Family(
    name="phi",
    architectures=(Architecture("PhiForCausalLM"),),
    rules=(
        Rule("model.embed_tokens.weight", ("embedding/table",), "plain"),
        *norm(f"{LAYER}.input_layernorm", f"{OURS}/self_attention_norm"),
        *attention(f"{LAYER}.self_attn", f"{OURS}/self_attention", ("q_proj", "k_proj", "v_proj", "dense")),
        *linear(f"{LAYER}.mlp.fc1", f"{OURS}/feed_forward/input"),
        *linear(f"{LAYER}.mlp.fc2", f"{OURS}/feed_forward/output"),
        *norm("model.final_layernorm", "decoder/final_norm"),
        Rule("lm_head.weight", ("output/projection/kernel",)),
        Rule("lm_head.bias", ("output_bias",)),
    ),
    to_config=to_config,
    from_config=from_config,
    prefix="model.",
)
