"""T5, T5 1.1 and FLAN-T5 (Raffel et al. 2020), and mT5 (Xue et al. 2021)."""

from functools import partial
from typing import Any

from transformer_jax.interop.config_keys import ACTIVATIONS, THEIR_ACTIVATIONS, Keys, written
from transformer_jax.interop.family import Architecture, Family
from transformer_jax.interop.rules import Rule, attention, linear, norm
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.positions import Relative

SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "d_model",
    "d_kv": "head_dim",
    "d_ff": "d_ff",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
}
RATES = ("dropout", "attention_dropout", "feed_forward_dropout")
"""All of them have one rate."""
LENGTH = 512
"""Tokens that the models were trained on; their positions go on for ever."""


def to_config(scales: bool, keys: Keys) -> EncoderDecoderConfig:
    """Our configuration; T5 before 1.1 `scales` logits."""
    keys.skip("dense_act_fn", "is_gated_act", "classifier_dropout", "is_decoder")
    fields = keys.fields(SIZES)
    form = keys.take("feed_forward_proj", "relu").split("-")
    if len(form) > 2 or form[-1] not in ACTIVATIONS or form[:-1] not in ([], ["gated"]):
        raise ValueError(f"feed_forward_proj {'-'.join(form)!r} is not known here")
    # "gated-gelu" has always meant the approximation.
    activation = "gelu_tanh" if form == ["gated", "gelu"] else ACTIVATIONS[form[-1]]
    tied = keys.take("tie_word_embeddings", True)
    scaled = keys.take("scale_decoder_outputs", tied) and scales
    decoder_layers = keys.take("num_decoder_layers", fields["num_layers"])
    buckets = keys.take("relative_attention_num_buckets", 32)
    return EncoderDecoderConfig(
        **fields,
        **{rate: keys.take("dropout_rate", 0.1) for rate in RATES},
        num_decoder_layers=None if decoder_layers == fields["num_layers"] else decoder_layers,
        activation=activation,
        gated=len(form) == 2,
        norm="rms_norm",
        norm_placement="pre",
        norm_epsilon=keys.take("layer_norm_epsilon", 1e-6),
        final_norm=True,
        feed_forward_bias=False,
        attention_scale=1.0,
        positions=Relative(buckets=buckets, max_distance=keys.take("relative_attention_max_distance", 128)),
        max_length=keys.take("n_positions", LENGTH),
        embedding_scale=False,
        tie_output="lm_head.weight" not in keys.tensors if keys.tensors and not scaled else tied,
        logits_scale=fields["d_model"] ** -0.5 if scaled else 1.0,
    )


def from_config(config: EncoderDecoderConfig) -> dict[str, Any]:
    """Their configuration."""
    if not isinstance(config.positions, Relative):
        raise ValueError(f"its positions are relative, not {type(config.positions).__name__}")
    activation = "gelu" if config.gated and config.activation == "gelu_tanh" else THEIR_ACTIVATIONS[config.activation]
    return written(SIZES, config) | {
        "d_kv": config.head_width,
        "num_decoder_layers": config.decoder_layers,
        "dropout_rate": config.dropout,
        "layer_norm_epsilon": config.norm_epsilon,
        "feed_forward_proj": f"gated-{activation}" if config.gated else activation,
        "relative_attention_num_buckets": config.positions.buckets,
        "relative_attention_max_distance": config.positions.max_distance,
        "n_positions": config.max_length,
        "tie_word_embeddings": config.tie_output,
        "scale_decoder_outputs": config.logits_scale != 1,
        "is_encoder_decoder": True,
    }


def side(name: str, feed_forward: int) -> tuple[Rule, ...]:
    """The rules of encoder or decoder, whose feed-forward network is the sub-layer of a number."""
    layer, ours = f"{name}.block.{{}}.layer", f"{name}/{{}}"
    bias = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return (
        Rule(bias, (f"{name}/position_bias/table",), "plain"),
        *attention(f"{layer}.0.SelfAttention", f"{ours}/self_attention", "qkvo"),
        *norm(f"{layer}.0.layer_norm", f"{ours}/self_attention_norm"),
        *linear(f"{layer}.{feed_forward}.DenseReluDense.wo", f"{ours}/feed_forward/output"),
        *norm(f"{layer}.{feed_forward}.layer_norm", f"{ours}/feed_forward_norm"),
        *norm(f"{name}.final_layer_norm", f"{name}/final_norm"),
    )


def first_maps(config: EncoderDecoderConfig) -> list[Rule]:
    """The rules of the maps into feed-forward networks, which have a gate or not."""
    maps = {"gate": "wi_0", "input": "wi_1"} if config.gated else {"input": "wi"}
    return [
        rule
        for name, number in (("encoder", 1), ("decoder", 2))
        for ours, theirs in maps.items()
        for rule in linear(
            f"{name}.block.{{}}.layer.{number}.DenseReluDense.{theirs}", f"{name}/{{}}/feed_forward/{ours}"
        )
    ]


def family(name: str, architecture: str, *, scales: bool) -> Family:
    """T5 or mT5."""
    memory = "decoder.block.{}.layer.1"
    return Family(
        name=name,
        architectures=(Architecture(architecture),),
        rules=(
            Rule("shared.weight", ("embedding/table",), "plain"),
            *side("encoder", 1),
            *side("decoder", 2),
            *attention(f"{memory}.EncDecAttention", "decoder/{}/cross_attention", "qkvo"),
            *norm(f"{memory}.layer_norm", "decoder/{}/cross_attention_norm"),
            Rule("lm_head.weight", ("output/projection/kernel",)),
        ),
        rules_for=first_maps,
        to_config=partial(to_config, scales),
        from_config=from_config,
        # The first versions of some checkpoints have a table that nothing reads.
        ignored=("decoder.block.{}.layer.{}.EncDecAttention.relative_attention_bias.weight",),
        copies=dict.fromkeys(
            ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"), "shared.weight"
        ),
    )


T5 = family("t5", "T5ForConditionalGeneration", scales=True)
MT5 = family("mt5", "MT5ForConditionalGeneration", scales=False)
