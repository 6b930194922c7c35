"""ModernBERT (Warner et al. 2024)."""

import dataclasses
from typing import Any

from transformer_jax.interop.config_keys import SIZES, THEIR_ACTIVATIONS, Keys, written
from transformer_jax.interop.family import Architecture, Family
from transformer_jax.interop.llama import KINDS, layer_kinds, read_kinds
from transformer_jax.interop.rotary import read_rotary, written_rotary
from transformer_jax.interop.rules import Rule, linear, norm
from transformer_jax.models.encoder_only import EncoderOnlyConfig, modern_bert

FLAGS = {
    "norm_eps": "norm_epsilon",
    "norm_bias": "norm_bias",
    "attention_bias": "attention_bias",
    "mlp_bias": "feed_forward_bias",
    "classifier_bias": "head_bias",
    "classifier_dropout": "head_dropout",
}
DEFAULTS: dict[str, Any] = dict.fromkeys(FLAGS, False) | {"norm_eps": 1e-5, "classifier_dropout": 0.0}
NO_EFFECT = ("deterministic_flash_attn", "reference_compile", "repad_logits_with_grad", "sparse_pred_ignore_index")
NO_EFFECT += ("sparse_prediction", "layer_norm_eps", "position_embedding_type")
POOLINGS = {"cls": "first", "mean": "mean"}


def to_config(keys: Keys) -> EncoderOnlyConfig:
    """Our configuration."""
    keys.skip(*NO_EFFECT)
    keys.only("tie_word_embeddings", True)
    for name in ("embedding_dropout", "mlp_dropout", "attention_dropout"):
        keys.only(name, 0.0)
    pooling = keys.take("classifier_pooling", "cls")
    keys.only("classifier_pooling", *POOLINGS)
    activation = keys.activation("hidden_activation")
    if "decoder.bias" in keys.tensors:  # the language model's head has the activation of the layers
        keys.only(
            "classifier_activation",
            *(their for their in THEIR_ACTIVATIONS.values() if their == keys.values.get("hidden_activation", "gelu")),
        )
    keys.only("decoder_bias", *((True,) if "head.dense.weight" in keys.tensors else (True, False)))
    every = min(max(keys.take("global_attn_every_n_layers", 3), 1), 1000)
    kinds = ["sliding_attention" if i % every else "full_attention" for i in range(every)]
    config = modern_bert(
        **keys.fields(SIZES | FLAGS, **DEFAULTS),
        activation=activation,
        pooling=POOLINGS[pooling],
        pooler_activation=keys.activation("classifier_activation"),
        pooler_norm=True,
        pooled_tokens=True,
        positions=read_rotary(keys, base=160_000.0, base_key="global_rope_theta", layers="full_attention"),
        local_positions=read_rotary(keys, base_key="local_rope_theta", layers="sliding_attention"),
        pattern=read_kinds(keys, "layer_types", kinds, KINDS),
        window=keys.take("local_attention", 128) // 2,
    )
    return config if "local" in config.pattern else dataclasses.replace(config, local_positions=None)


def from_config(config: EncoderOnlyConfig) -> dict[str, Any]:
    """Their configuration."""
    theirs, poolings = ({ours: their for their, ours in table.items()} for table in (KINDS, POOLINGS))
    kinds = layer_kinds(config)
    if any(kind not in theirs for kind in kinds):
        raise ValueError("it knows no layers without positions")
    return {
        **written(SIZES | FLAGS, config),
        **written_rotary(config.positions, base_key="global_rope_theta"),
        **written_rotary(config.local_positions or config.positions, base_key="local_rope_theta"),
        "hidden_activation": THEIR_ACTIVATIONS[config.activation],
        "classifier_activation": THEIR_ACTIVATIONS.get(config.pooler_activation, "gelu"),
        "classifier_pooling": poolings[config.pooling],
        "layer_types": [theirs[kind] for kind in kinds],
        "local_attention": 2 * config.window,
    }


LAYER, OURS = "model.layers.{}", "encoder/{}"
HEAD = (*linear("head.dense", "head/transform"), *norm("head.norm", "head/norm"))
POOLER = (*linear("head.dense", "pooler/transform"), *norm("head.norm", "pooler/norm"), *linear("classifier", "head"))
MODERNBERT = Family(
    name="modernbert",
    architectures=(
        Architecture("ModernBertForMaskedLM", "language_model", (*HEAD, Rule("decoder.bias", ("head/bias",), "plain"))),
        Architecture("ModernBertForSequenceClassification", "sequence", POOLER),
        Architecture("ModernBertForTokenClassification", "tokens", POOLER),
        Architecture("ModernBertForQuestionAnswering", "tokens", POOLER),
        Architecture("ModernBertModel", "none"),
    ),
    rules=(
        Rule("model.embeddings.tok_embeddings.weight", ("embedding/table",), "plain"),
        *norm("model.embeddings.norm", "encoder_input/norm"),
        *norm(f"{LAYER}.attn_norm", f"{OURS}/self_attention_norm"),
        *linear(f"{LAYER}.attn.Wqkv", *(f"{OURS}/self_attention/{part}" for part in ("query", "key", "value"))),
        *linear(f"{LAYER}.attn.Wo", f"{OURS}/self_attention/output"),
        *norm(f"{LAYER}.mlp_norm", f"{OURS}/feed_forward_norm"),
        *linear(f"{LAYER}.mlp.Wi", f"{OURS}/feed_forward/gate", f"{OURS}/feed_forward/input"),
        *linear(f"{LAYER}.mlp.Wo", f"{OURS}/feed_forward/output"),
        *norm("model.final_norm", "encoder/final_norm"),
    ),
    to_config=to_config,
    from_config=from_config,
    prefix="model.",
    copies={"decoder.weight": "model.embeddings.tok_embeddings.weight"},
)
