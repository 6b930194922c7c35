"""ALBERT (Lan et al. 2020): BERT with narrow embeddings and one layer, run several times."""

from typing import Any

from transformer_jax.interop.bert import embeddings, read_encoder, written_encoder
from transformer_jax.interop.config_keys import Keys
from transformer_jax.interop.family import Architecture, Family
from transformer_jax.interop.rules import Rule, attention, linear, norm
from transformer_jax.models.encoder_only import EncoderOnlyConfig


def to_config(keys: Keys) -> EncoderOnlyConfig:
    """Our configuration."""
    keys.skip("net_structure_type", "gap_size", "num_memory_blocks", "down_scale_factor", "layers_to_keep")
    for name in ("inner_group_num", "num_hidden_groups"):
        keys.only(name, 1)
    keys.values = {
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "hidden_act": "gelu_new",
    } | keys.values
    rate, size = keys.take("classifier_dropout_prob", 0.1), keys.take("embedding_size", 128)
    if size == keys.take("hidden_size"):  # theirs maps embeddings to the layers' width even then
        raise ValueError(f"embedding_size {size} that is hidden_size cannot be expressed here")
    return read_encoder(keys, embedding_size=size, shared_layers=True, head_dropout=rate)


def from_config(config: EncoderOnlyConfig) -> dict[str, Any]:
    """Their configuration."""
    others = {"embedding_size": config.embedding_width, "classifier_dropout_prob": config.head_dropout}
    theirs = written_encoder(config) | others | {"num_hidden_groups": 1, "inner_group_num": 1}
    return {name: value for name, value in theirs.items() if name != "classifier_dropout"}


LAYER, OURS = "albert.encoder.albert_layer_groups.0.albert_layers.0", "encoder/shared"
MAPS = ("query", "key", "value", "dense")
POOLER = linear("albert.pooler", "pooler/transform")
LANGUAGE_MODEL = (
    *linear("predictions.dense", "head/transform"),
    *norm("predictions.LayerNorm", "head/norm"),
    Rule("predictions.bias", ("head/bias",), "plain"),
)
PRETRAINING = (*linear("sop_classifier.classifier", "next_sentence"), *LANGUAGE_MODEL, *POOLER)
ALBERT = Family(
    name="albert",
    architectures=(
        Architecture("AlbertForMaskedLM", "language_model", LANGUAGE_MODEL),
        Architecture("AlbertForPreTraining", "pretraining", PRETRAINING),
        Architecture("AlbertForSequenceClassification", "sequence", (*linear("classifier", "head"), *POOLER)),
        Architecture("AlbertForTokenClassification", "tokens", tuple(linear("classifier", "head"))),
        Architecture("AlbertForQuestionAnswering", "tokens", tuple(linear("qa_outputs", "head"))),
        Architecture("AlbertModel", "pooled", tuple(POOLER)),
        Architecture("AlbertModel", "none"),
    ),
    rules=(
        *embeddings("albert."),
        *linear("albert.encoder.embedding_hidden_mapping_in", "encoder_input/projection"),
        *attention(f"{LAYER}.attention", f"{OURS}/self_attention", MAPS),
        *norm(f"{LAYER}.attention.LayerNorm", f"{OURS}/self_attention_norm"),
        *linear(f"{LAYER}.ffn", f"{OURS}/feed_forward/input"),
        *linear(f"{LAYER}.ffn_output", f"{OURS}/feed_forward/output"),
        *norm(f"{LAYER}.full_layer_layer_norm", f"{OURS}/feed_forward_norm"),
    ),
    to_config=to_config,
    from_config=from_config,
    prefix="albert.",
    ignored=("albert.embeddings.position_ids",),
    copies={
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    },
)
