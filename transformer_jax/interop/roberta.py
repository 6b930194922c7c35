"""RoBERTa (Liu et al. 2019), XLM-R (Conneau et al. 2020): BERT whose positions begin behind the padding token's id."""

from typing import Any

from transformer_jax.interop.bert import body, read_encoder, written_encoder
from transformer_jax.interop.config_keys import Keys
from transformer_jax.interop.family import Architecture, Family
from transformer_jax.interop.rules import Rule, linear, norm
from transformer_jax.models.encoder_only import EncoderOnlyConfig
from transformer_jax.nn.positions import Learned


def to_config(keys: Keys) -> EncoderOnlyConfig:
    """Our configuration."""
    offset = keys.take("pad_token_id", 1) + 1
    reach = keys.take("max_position_embeddings") - offset
    return read_encoder(keys, positions=Learned(offset=offset), max_length=reach)


def from_config(config: EncoderOnlyConfig) -> dict[str, Any]:
    """Their configuration."""
    if not isinstance(config.positions, Learned):
        raise ValueError(f"its positions are learned, not {type(config.positions).__name__}")
    offset = config.positions.offset
    sizes = {"max_position_embeddings": config.max_length + offset, "pad_token_id": offset - 1}
    return written_encoder(config) | sizes


POOLER = tuple(linear("roberta.pooler.dense", "pooler/transform"))
LANGUAGE_MODEL = (
    *linear("lm_head.dense", "head/transform"),
    *norm("lm_head.layer_norm", "head/norm"),
    Rule("lm_head.bias", ("head/bias",), "plain"),
)
SEQUENCE = (*linear("classifier.dense", "pooler/transform"), *linear("classifier.out_proj", "head"))


def family(name: str, classes: str) -> Family:
    """One of the two."""
    return Family(
        name=name,
        architectures=(
            Architecture(f"{classes}ForMaskedLM", "language_model", LANGUAGE_MODEL),
            Architecture(f"{classes}ForSequenceClassification", "sequence", SEQUENCE),
            Architecture(f"{classes}ForTokenClassification", "tokens", tuple(linear("classifier", "head"))),
            Architecture(f"{classes}ForQuestionAnswering", "tokens", tuple(linear("qa_outputs", "head"))),
            Architecture(f"{classes}Model", "pooled", POOLER),
            Architecture(f"{classes}Model", "none"),
        ),
        rules=body("roberta."),
        to_config=to_config,
        from_config=from_config,
        prefix="roberta.",
        ignored=("roberta.embeddings.position_ids",),
        copies={
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
    )


ROBERTA, XLM_ROBERTA = family("roberta", "Roberta"), family("xlm-roberta", "XLMRoberta")
