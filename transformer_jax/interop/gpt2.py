"""GPT-2 (Radford et al. 2019)."""

from typing import Any

from transformer_jax.interop.config_keys import THEIR_ACTIVATIONS, Keys, written
from transformer_jax.interop.family import Architecture, Family
from transformer_jax.interop.rules import Rule, linear, norm
from transformer_jax.models.decoder_only import DecoderOnlyConfig, gpt2

SIZES = {
    "vocab_size": "vocab_size",
    "n_embd": "d_model",
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_positions": "max_length",
}
OTHERS = {
    "resid_pdrop": "dropout",
    "attn_pdrop": "attention_dropout",
    "layer_norm_epsilon": "norm_epsilon",
    "tie_word_embeddings": "tie_output",
}
DEFAULTS: dict[str, Any] = {
    "resid_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "tie_word_embeddings": True,
}


def to_config(keys: Keys) -> DecoderOnlyConfig:
    """Our configuration."""
    keys.only("scale_attn_weights", True)
    for name in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"):
        keys.only(name, False)
    keys.skip("n_ctx", *(name for name in keys.values if name.startswith("summary_")))
    fields = keys.fields(SIZES | OTHERS, **DEFAULTS)
    keys.in_training("embd_pdrop", fields["dropout"])
    activation = keys.activation("activation_function", "gelu_new")
    return gpt2(**fields, d_ff=keys.take("n_inner", 4 * fields["d_model"]), activation=activation)


def from_config(config: DecoderOnlyConfig) -> dict[str, Any]:
    """Their configuration."""
    return written(SIZES | OTHERS, config) | {
        "n_inner": config.d_ff,
        "embd_pdrop": config.dropout,
        "activation_function": THEIR_ACTIVATIONS[config.activation],
    }


LAYER, OURS = "transformer.h.{}", "decoder/{}"
GPT2 = Family(
    name="gpt2",
    architectures=(Architecture("GPT2LMHeadModel"),),
    rules=(
        Rule("transformer.wte.weight", ("embedding/table",), "plain"),
        Rule("transformer.wpe.weight", ("decoder_input/positions/table",), "plain"),
        *norm(f"{LAYER}.ln_1", f"{OURS}/self_attention_norm"),
        *linear(
            f"{LAYER}.attn.c_attn",
            *(f"{OURS}/self_attention/{part}" for part in ("query", "key", "value")),
            form="conv1d",
        ),
        *linear(f"{LAYER}.attn.c_proj", f"{OURS}/self_attention/output", form="conv1d"),
        *norm(f"{LAYER}.ln_2", f"{OURS}/feed_forward_norm"),
        *linear(f"{LAYER}.mlp.c_fc", f"{OURS}/feed_forward/input", form="conv1d"),
        *linear(f"{LAYER}.mlp.c_proj", f"{OURS}/feed_forward/output", form="conv1d"),
        *norm("transformer.ln_f", "decoder/final_norm"),
        Rule("lm_head.weight", ("output/projection/kernel",)),
    ),
    to_config=to_config,
    from_config=from_config,
    prefix="transformer.",
    ignored=(f"{LAYER}.attn.bias", f"{LAYER}.attn.masked_bias"),
    copies={"lm_head.weight": "transformer.wte.weight"},
)
