"""ELECTRA (Clark et al. 2020): BERT as a generator, and as a discriminator that says which tokens were replaced."""

from typing import Any

from transformer_jax.interop.bert import body, read_encoder, written_encoder
from transformer_jax.interop.config_keys import Keys
from transformer_jax.interop.family import Architecture, Family
from transformer_jax.interop.rules import Rule, linear, norm
from transformer_jax.models.encoder_only import EncoderOnlyConfig

DISCRIMINATOR = (
    *linear("discriminator_predictions.dense_prediction", "head"),
    *linear("discriminator_predictions.dense", "pooler/transform"),
)


def to_config(keys: Keys) -> EncoderOnlyConfig:
    """Our configuration."""
    keys.skip(*(name for name in keys.values if name.startswith("summary_")))
    keys.only(
        "hidden_act", *(("gelu",) if "generator_lm_head.bias" in keys.tensors else (keys.values.get("hidden_act"),))
    )
    discriminates = DISCRIMINATOR[0].theirs in keys.tensors
    activation = keys.activation("hidden_act") if discriminates else "gelu"
    size = keys.take("embedding_size", keys.take("hidden_size"))
    return read_encoder(keys, embedding_size=size, pooled_tokens=discriminates, pooler_activation=activation)


def from_config(config: EncoderOnlyConfig) -> dict[str, Any]:
    """Their configuration."""
    return written_encoder(config) | {"embedding_size": config.embedding_width}


LANGUAGE_MODEL = (
    *linear("generator_predictions.dense", "head/transform"),
    *norm("generator_predictions.LayerNorm", "head/norm"),
    Rule("generator_lm_head.bias", ("head/bias",), "plain"),
)
SEQUENCE = (*linear("classifier.dense", "pooler/transform"), *linear("classifier.out_proj", "head"))
ELECTRA = Family(
    name="electra",
    architectures=(
        Architecture("ElectraForMaskedLM", "language_model", LANGUAGE_MODEL),
        Architecture("ElectraForSequenceClassification", "sequence", SEQUENCE),
        Architecture("ElectraForTokenClassification", "tokens", tuple(linear("classifier", "head"))),
        Architecture("ElectraForQuestionAnswering", "tokens", tuple(linear("qa_outputs", "head"))),
        Architecture("ElectraForPreTraining", "tokens", DISCRIMINATOR),
        Architecture("ElectraModel", "none"),
    ),
    rules=(*body("electra."), *linear("electra.embeddings_project", "encoder_input/projection")),
    to_config=to_config,
    from_config=from_config,
    prefix="electra.",
    ignored=("electra.embeddings.position_ids",),
    copies={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
)
