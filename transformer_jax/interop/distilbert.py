"""DistilBERT (Sanh et al. 2019): BERT without kinds of tokens, its classifier behind a rectified map."""

from typing import Any

from transformer_jax.interop.config_keys import THEIR_ACTIVATIONS, Keys, written
from transformer_jax.interop.family import Architecture, Family
from transformer_jax.interop.rules import Rule, attention, linear, norm
from transformer_jax.models.encoder_only import EncoderOnlyConfig, bert

SIZES = {
    "vocab_size": "vocab_size",
    "dim": "d_model",
    "n_layers": "num_layers",
    "n_heads": "num_heads",
    "hidden_dim": "d_ff",
    "max_position_embeddings": "max_length",
}
RATES = {"dropout": "dropout", "attention_dropout": "attention_dropout"}
HEADS = {"qa_outputs.weight": "qa_dropout", "classifier.weight": "dropout"}
"""Which rate is in front of the head that has this tensor, unless there is a pooler."""


def to_config(keys: Keys) -> EncoderOnlyConfig:
    """Our configuration."""
    keys.only("tie_word_embeddings", True)
    keys.skip("sinusoidal_pos_embds", "tie_weights_", "seq_classif_dropout", "qa_dropout")
    there = [
        rate for tensor, rate in HEADS.items() if tensor in keys.tensors and "pre_classifier.weight" not in keys.tensors
    ]
    return bert(
        **keys.fields(SIZES | RATES, dropout=0.1, attention_dropout=0.1),
        activation=keys.activation("activation"),
        head_dropout=keys.take(there[0], 0.1) if there else keys.take("seq_classif_dropout", 0.2),
        pooler_activation="relu",
        token_types=0,
    )


def from_config(config: EncoderOnlyConfig) -> dict[str, Any]:
    """Their configuration."""
    rates = dict.fromkeys(("seq_classif_dropout", "qa_dropout"), config.head_dropout)
    return written(SIZES | RATES, config) | rates | {"activation": THEIR_ACTIVATIONS[config.activation]}


EMBEDDINGS, LAYER, OURS = "distilbert.embeddings", "distilbert.transformer.layer.{}", "encoder/{}"
DISTILBERT = Family(
    name="distilbert",
    architectures=(
        Architecture(
            "DistilBertForMaskedLM",
            "language_model",
            (
                *linear("vocab_transform", "head/transform"),
                *norm("vocab_layer_norm", "head/norm"),
                Rule("vocab_projector.bias", ("head/bias",), "plain"),
            ),
        ),
        Architecture(
            "DistilBertForSequenceClassification",
            "sequence",
            (*linear("pre_classifier", "pooler/transform"), *linear("classifier", "head")),
        ),
        Architecture("DistilBertForTokenClassification", "tokens", tuple(linear("classifier", "head"))),
        Architecture("DistilBertForQuestionAnswering", "tokens", tuple(linear("qa_outputs", "head"))),
        Architecture("DistilBertModel", "none"),
    ),
    rules=(
        Rule(f"{EMBEDDINGS}.word_embeddings.weight", ("embedding/table",), "plain"),
        Rule(f"{EMBEDDINGS}.position_embeddings.weight", ("encoder_input/positions/table",), "plain"),
        *norm(f"{EMBEDDINGS}.LayerNorm", "encoder_input/norm"),
        *attention(f"{LAYER}.attention", f"{OURS}/self_attention", ("q_lin", "k_lin", "v_lin", "out_lin")),
        *norm(f"{LAYER}.sa_layer_norm", f"{OURS}/self_attention_norm"),
        *linear(f"{LAYER}.ffn.lin1", f"{OURS}/feed_forward/input"),
        *linear(f"{LAYER}.ffn.lin2", f"{OURS}/feed_forward/output"),
        *norm(f"{LAYER}.output_layer_norm", f"{OURS}/feed_forward_norm"),
    ),
    to_config=to_config,
    from_config=from_config,
    prefix="distilbert.",
    copies={"vocab_projector.weight": f"{EMBEDDINGS}.word_embeddings.weight"},
)
