"""BERT (Devlin et al. 2019)."""

from typing import Any

from transformer_jax.interop.config_keys import SIZES, THEIR_ACTIVATIONS, Keys, written
from transformer_jax.interop.family import Architecture, Family
from transformer_jax.interop.rules import Rule, attention, linear, norm
from transformer_jax.models.encoder_only import EncoderOnlyConfig, bert

OURS = SIZES | {"type_vocab_size": "token_types"}
RATES = {"hidden_dropout_prob": "dropout", "attention_probs_dropout_prob": "attention_dropout"}
DEFAULTS: dict[str, Any] = {"type_vocab_size": 2, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def read_encoder(keys: Keys, **others: Any) -> EncoderOnlyConfig:
    """The configuration that the kin of BERT have in common, with `others`."""
    keys.only("position_embedding_type", "absolute")
    keys.only("tie_word_embeddings", True)
    for name in ("is_decoder", "add_cross_attention"):
        keys.only(name, False)
    fields = keys.fields(OURS | RATES, **DEFAULTS)
    fields |= {"activation": keys.activation("hidden_act"), "norm_epsilon": keys.take("layer_norm_eps", 1e-12)}
    if "head_dropout" not in others:
        fields["head_dropout"] = keys.take("classifier_dropout", fields["dropout"])
    return bert(**fields | others)


def written_encoder(config: EncoderOnlyConfig) -> dict[str, Any]:
    """The inverse of `read_encoder`."""
    return written(OURS | RATES, config) | {
        "hidden_act": THEIR_ACTIVATIONS[config.activation],
        "layer_norm_eps": config.norm_epsilon,
        "classifier_dropout": config.head_dropout,
    }


def embeddings(prefix: str) -> tuple[Rule, ...]:
    """The rules of what stands in front of the layers."""
    embeddings = f"{prefix}embeddings"
    return (
        Rule(f"{embeddings}.word_embeddings.weight", ("embedding/table",), "plain"),
        Rule(f"{embeddings}.position_embeddings.weight", ("encoder_input/positions/table",), "plain"),
        Rule(f"{embeddings}.token_type_embeddings.weight", ("encoder_input/token_types",), "plain"),
        *norm(f"{embeddings}.LayerNorm", "encoder_input/norm"),
    )


def body(prefix: str) -> tuple[Rule, ...]:
    """The rules of embeddings and layers."""
    layer, ours, maps = (
        f"{prefix}encoder.layer.{{}}",
        "encoder/{}",
        ("self.query", "self.key", "self.value", "output.dense"),
    )
    return (
        *embeddings(prefix),
        *attention(f"{layer}.attention", f"{ours}/self_attention", maps),
        *norm(f"{layer}.attention.output.LayerNorm", f"{ours}/self_attention_norm"),
        *linear(f"{layer}.intermediate.dense", f"{ours}/feed_forward/input"),
        *linear(f"{layer}.output.dense", f"{ours}/feed_forward/output"),
        *norm(f"{layer}.output.LayerNorm", f"{ours}/feed_forward_norm"),
    )


POOLER = linear("bert.pooler.dense", "pooler/transform")
LANGUAGE_MODEL = (
    *linear("cls.predictions.transform.dense", "head/transform"),
    *norm("cls.predictions.transform.LayerNorm", "head/norm"),
    Rule("cls.predictions.bias", ("head/bias",), "plain"),
)
BERT = Family(
    name="bert",
    architectures=(
        Architecture("BertForMaskedLM", "language_model", LANGUAGE_MODEL),
        Architecture(
            "BertForPreTraining",
            "pretraining",
            (*LANGUAGE_MODEL, *POOLER, *linear("cls.seq_relationship", "next_sentence")),
        ),
        Architecture("BertForSequenceClassification", "sequence", (*linear("classifier", "head"), *POOLER)),
        Architecture("BertForTokenClassification", "tokens", tuple(linear("classifier", "head"))),
        Architecture("BertForQuestionAnswering", "tokens", tuple(linear("qa_outputs", "head"))),
        Architecture("BertModel", "pooled", tuple(POOLER)),
        Architecture("BertModel", "none"),
    ),
    rules=body("bert."),
    to_config=read_encoder,
    from_config=written_encoder,
    prefix="bert.",
    ignored=("bert.embeddings.position_ids",),
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
)
