"""BART (Lewis et al. 2020), mBART (Liu et al. 2020), Marian (Junczys-Dowmunt et al. 2018) and M2M-100 and NLLB
(Fan et al. 2020, NLLB Team 2022): the paper's model in four dresses."""

from dataclasses import replace
from functools import partial
from typing import Any

from transformer_jax.interop.config_keys import THEIR_ACTIVATIONS, Keys, written
from transformer_jax.interop.family import Architecture, Family
from transformer_jax.interop.rules import Rule, attention, linear, norm
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.config import LayerConfig
from transformer_jax.nn.positions import Learned, Sinusoidal

SIZES = {"vocab_size": "vocab_size", "d_model": "d_model", "max_position_embeddings": "max_length"}
OTHERS = {
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "feed_forward_dropout",
    "scale_embedding": "embedding_scale",
}
DEFAULTS: dict[str, Any] = {
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "scale_embedding": False,
    "activation_function": "gelu",
}
OF_M2M_100 = {"attention_dropout": 0.1, "scale_embedding": True, "activation_function": "relu"}
"""Its defaults where they are others."""
SIDE = {"layers": "num_layers", "attention_heads": "num_heads", "ffn_dim": "d_ff"}
FORMS: dict[str, dict[str, Any]] = {
    "bart": {"embedding_norm": True, "positions": Learned(offset=2)},
    "mbart": {"embedding_norm": True, "positions": Learned(offset=2), "norm_placement": "pre", "final_norm": True},
    "marian": {"positions": Sinusoidal(interleaved=False)},
    "m2m_100": {
        "positions": Sinusoidal(interleaved=False, inclusive=True, offset=2),
        "norm_placement": "pre",
        "final_norm": True,
    },
}
OLD = {
    "normalize_before": "norm_placement",
    "normalize_embedding": "embedding_norm",
    "add_final_layer_norm": "final_norm",
}
"""Keys of the first configurations, which say what the kind says."""


def to_config(form: dict[str, Any], defaults: dict[str, Any], keys: Keys) -> EncoderDecoderConfig:
    """Our configuration."""
    keys.skip(
        "num_hidden_layers", "classif_dropout", "classifier_dropout", "save_step", "is_decoder", "extra_pos_embeddings"
    )
    keys.skip("decoder_vocab_size", "static_position_embeddings", "add_bias_logits")
    keys.only("tie_word_embeddings", True)
    keys.only("share_encoder_decoder_embeddings", True)
    for old, ours in OLD.items():
        keys.only(old, form.get(ours, False) not in (False, "post"))
    for name in ("encoder_layerdrop", "decoder_layerdrop"):
        keys.in_training(name)
    encoder, decoder = (
        {ours: keys.take(f"{name}_{theirs}") for theirs, ours in SIDE.items()} for name in ("encoder", "decoder")
    )
    depth = decoder.pop("num_layers")
    config = EncoderDecoderConfig(
        **keys.fields(SIZES | OTHERS, **defaults),
        **decoder,
        **form,
        num_layers=encoder["num_layers"],
        num_decoder_layers=None if depth == encoder["num_layers"] else depth,
        activation=keys.activation("activation_function", defaults["activation_function"]),
        norm_epsilon=1e-5,
        attention_bias=True,
        output_bias="final_logits_bias" in keys.tensors,
    )
    if all(getattr(config, name) == value for name, value in encoder.items()):
        return config
    shared = {name: getattr(config, name) for name in LayerConfig.__dataclass_fields__}
    return replace(config, encoder=LayerConfig(**shared | encoder))


def from_config(config: EncoderDecoderConfig) -> dict[str, Any]:
    """Their configuration."""
    sides = {"encoder": config.encoder_layers, "decoder": replace(config, num_layers=config.decoder_layers)}
    return {
        **written(SIZES | OTHERS, config),
        **{f"{name}_{theirs}": getattr(side, ours) for name, side in sides.items() for theirs, ours in SIDE.items()},
        "activation_function": THEIR_ACTIVATIONS[config.activation],
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "is_encoder_decoder": True,
    }


def side(name: str) -> tuple[Rule, ...]:
    """The rules of encoder or decoder."""
    layer, ours = f"model.{name}.layers.{{}}", f"{name}/{{}}"
    maps = ("q_proj", "k_proj", "v_proj", "out_proj")
    return (
        Rule(f"model.{name}.embed_positions.weight", (f"{name}_input/positions/table",), "plain"),
        *norm(f"model.{name}.layernorm_embedding", f"{name}_input/norm"),
        *attention(f"{layer}.self_attn", f"{ours}/self_attention", maps),
        *norm(f"{layer}.self_attn_layer_norm", f"{ours}/self_attention_norm"),
        *attention(f"{layer}.encoder_attn", f"{ours}/cross_attention", maps),
        *norm(f"{layer}.encoder_attn_layer_norm", f"{ours}/cross_attention_norm"),
        *linear(f"{layer}.fc1", f"{ours}/feed_forward/input"),
        *linear(f"{layer}.fc2", f"{ours}/feed_forward/output"),
        *norm(f"{layer}.final_layer_norm", f"{ours}/feed_forward_norm"),
        *norm(f"model.{name}.layer_norm", f"{name}/final_norm"),
    )


def family(name: str, architecture: str) -> Family:
    """One of the four."""
    form, defaults = FORMS[name], DEFAULTS | (OF_M2M_100 if name == "m2m_100" else {})
    computed = isinstance(form["positions"], Sinusoidal)
    tables = tuple(
        f"model.{side}.embed_positions.{what}" for side in ("encoder", "decoder") for what in ("weight", "weights")
    )
    return Family(
        name=name,
        architectures=(Architecture(architecture),),
        rules=(
            Rule("model.shared.weight", ("embedding/table",), "plain"),
            Rule("final_logits_bias", ("output_bias",), "row"),
            *side("encoder"),
            *side("decoder"),
        ),
        to_config=partial(to_config, form, defaults),
        from_config=from_config,
        ignored=(*(tables if computed else ()), "model.encoder.version", "model.decoder.version"),
        copies=dict.fromkeys(
            ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"),
            "model.shared.weight",
        ),
    )


BART = family("bart", "BartForConditionalGeneration")
MBART = family("mbart", "MBartForConditionalGeneration")
MARIAN = family("marian", "MarianMTModel")
M2M_100 = family("m2m_100", "M2M100ForConditionalGeneration")
