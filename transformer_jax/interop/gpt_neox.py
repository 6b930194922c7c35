"""GPT-NeoX and Pythia (Black et al. 2022, Biderman et al. 2023)."""

from typing import Any

from transformer_jax.interop.config_keys import SIZES, THEIR_ACTIVATIONS, Keys, written
from transformer_jax.interop.family import Architecture, Family
from transformer_jax.interop.rotary import read_rotary, written_rotary
from transformer_jax.interop.rules import Rule, linear, norm
from transformer_jax.models.decoder_only import DecoderOnlyConfig, gpt2

OTHERS = {
    "hidden_dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "layer_norm_eps": "norm_epsilon",
    "tie_word_embeddings": "tie_output",
    "use_parallel_residual": "parallel",
    "attention_bias": "attention_bias",
}
DEFAULTS: dict[str, Any] = {
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "attention_bias": True,
}
KEYS = {"base_key": "rotary_emb_base", "fraction_key": "rotary_pct"}


def to_config(keys: Keys) -> DecoderOnlyConfig:
    """Our configuration."""
    keys.skip("classifier_dropout", "is_decoder")
    for name in ("attention_probs_dropout_prob", "hidden_dropout_prob"):  # of GPT-NeoX 20B, which nothing reads
        keys.in_training(name)
    fields = keys.fields(SIZES | OTHERS, **DEFAULTS)
    positions = read_rotary(keys, fraction=0.25, base_key=KEYS["base_key"], fraction_key=KEYS["fraction_key"])
    return gpt2(**fields, activation=keys.activation("hidden_act"), positions=positions)


def from_config(config: DecoderOnlyConfig) -> dict[str, Any]:
    """Their configuration."""
    rotary = {"rotary_pct": 1.0} | written_rotary(
        config.positions, base_key=KEYS["base_key"], fraction_key=KEYS["fraction_key"]
    )
    return written(SIZES | OTHERS, config) | rotary | {"hidden_act": THEIR_ACTIVATIONS[config.activation]}


LAYER, OURS = "gpt_neox.layers.{}", "decoder/{}"
GPT_NEOX = Family(
    name="gpt_neox",
    architectures=(Architecture("GPTNeoXForCausalLM"),),
    rules=(
        Rule("gpt_neox.embed_in.weight", ("embedding/table",), "plain"),
        *norm(f"{LAYER}.input_layernorm", f"{OURS}/self_attention_norm"),
        *linear(
            f"{LAYER}.attention.query_key_value",
            *(f"{OURS}/self_attention/{part}" for part in ("query", "key", "value")),
            form="heads",
        ),
        *linear(f"{LAYER}.attention.dense", f"{OURS}/self_attention/output"),
        *norm(f"{LAYER}.post_attention_layernorm", f"{OURS}/feed_forward_norm"),
        *linear(f"{LAYER}.mlp.dense_h_to_4h", f"{OURS}/feed_forward/input"),
        *linear(f"{LAYER}.mlp.dense_4h_to_h", f"{OURS}/feed_forward/output"),
        *norm("gpt_neox.final_layer_norm", "decoder/final_norm"),
        Rule("embed_out.weight", ("output/projection/kernel",)),
    ),
    to_config=to_config,
    from_config=from_config,
    prefix="gpt_neox.",
    ignored=tuple(f"{LAYER}.attention.{name}" for name in ("bias", "masked_bias", "rotary_emb.inv_freq")),
    copies={"embed_out.weight": "gpt_neox.embed_in.weight"},
)
