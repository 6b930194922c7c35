"""T5Gemma (Zhang et al. 2025): an encoder-decoder of two Gemma 2, each with embeddings of its own."""

from dataclasses import fields, replace
from typing import Any

from transformer_jax.interop.config_keys import Keys
from transformer_jax.interop.family import Architecture, Family
from transformer_jax.interop.gemma import from_gemma2, to_gemma2
from transformer_jax.interop.rules import Rule, attention, linear, norm
from transformer_jax.models.decoder_only import DecoderOnlyConfig
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.config import LayerConfig

LAYERS = [field.name for field in fields(LayerConfig)]


def side(keys: Keys, name: str, width: int) -> DecoderOnlyConfig:
    """The configuration of one side, whose dropout has a key for all places."""
    inner = Keys(keys.take(name, kind=dict))
    inner.skip("is_decoder")
    inner.only("cross_attention_hidden_size", width)
    rate = inner.take("dropout_rate", 0.0)
    config = replace(to_gemma2(inner), dropout=rate, feed_forward_dropout=rate)
    if left := inner.left():
        raise ValueError(f"{name} has keys that are not known here: {', '.join(left)}")
    return config


def to_config(keys: Keys) -> EncoderDecoderConfig:
    """Our configuration."""
    keys.skip("vocab_size", "attention_dropout", "dropout_rate", "classifier_dropout_rate", "initializer_range")
    keys.only("tie_word_embeddings", True)
    encoder = side(keys, "encoder", 0)
    # Where both sides are seen, the window does not count the token itself.
    encoder = replace(encoder, window=encoder.window + 1) if "local" in encoder.pattern else encoder
    decoder = side(keys, "decoder", encoder.d_model)
    ours, theirs = ({name: getattr(config, name) for name in LAYERS} for config in (decoder, encoder))
    depth = ours.pop("num_layers")
    config = EncoderDecoderConfig(
        **ours,
        num_layers=encoder.num_layers,
        num_decoder_layers=None if depth == encoder.num_layers else depth,
        vocab_size=decoder.vocab_size,
        source_vocab_size=encoder.vocab_size,
        share_embeddings=False,
        logits_soft_cap=decoder.logits_soft_cap,
    )
    same = all(getattr(config, name) == value for name, value in theirs.items())
    return config if same else replace(config, encoder=LayerConfig(**theirs))


def from_config(config: EncoderDecoderConfig) -> dict[str, Any]:
    """Their configuration."""

    def written(layers: LayerConfig, vocab_size: int, **others: Any) -> dict[str, Any]:
        shared: dict[str, Any] = {name: getattr(layers, name) for name in LAYERS}
        shared |= {"logits_soft_cap": config.logits_soft_cap, "vocab_size": vocab_size}
        keys = from_gemma2(DecoderOnlyConfig(**shared))
        return keys | {"dropout_rate": layers.dropout, "model_type": "t5_gemma_module", **others}

    encoder, decoder = config.encoder_layers, replace(config, num_layers=config.decoder_layers)
    encoder = replace(encoder, window=encoder.window - 1)
    width = {"is_decoder": True, "cross_attention_hidden_size": encoder.d_model}
    sides = {
        "encoder": written(encoder, config.source_vocab_size),
        "decoder": written(decoder, config.vocab_size, **width),
    }
    return sides | {"vocab_size": config.vocab_size, "is_encoder_decoder": True, "tie_word_embeddings": True}


def rules(name: str, embedding: str) -> tuple[Rule, ...]:
    """The tensors of one side."""
    layer, ours = f"model.{name}.layers.{{}}", f"{name}/{{}}"
    norms = {"self_attn": "self_attention", "cross_attn": "cross_attention", "feedforward": "feed_forward"}
    maps = {"gate_proj": "gate", "up_proj": "input", "down_proj": "output"}
    return (
        Rule(f"model.{name}.embed_tokens.weight", (f"{embedding}/table",), "plain"),
        *attention(f"{layer}.self_attn", f"{ours}/self_attention"),
        *attention(f"{layer}.cross_attn", f"{ours}/cross_attention"),
        *(rule for their, our in maps.items() for rule in linear(f"{layer}.mlp.{their}", f"{ours}/feed_forward/{our}")),
        *(
            rule
            for their, our in norms.items()
            for rule in norm(f"{layer}.pre_{their}_layernorm", f"{ours}/{our}_norm")
        ),
        *(
            rule
            for their, our in norms.items()
            for rule in norm(f"{layer}.post_{their}_layernorm", f"{ours}/{our}_output_norm")
        ),
        *norm(f"model.{name}.norm", f"{name}/final_norm"),
    )


T5GEMMA = Family(
    name="t5gemma",
    architectures=(Architecture("T5GemmaForConditionalGeneration"),),
    rules=(*rules("encoder", "source_embedding"), *rules("decoder", "embedding")),
    to_config=to_config,
    from_config=from_config,
    copies={"lm_head.out_proj.weight": "model.decoder.embed_tokens.weight"},
)
