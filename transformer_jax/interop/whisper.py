"""Whisper (Radford et al. 2022): an encoder of sound with BART's decoder, its norms in front of the sub-layers.

How sound becomes features stands in `preprocessor_config.json`, beside config.json.
"""

import json
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from transformer_jax.interop.bart import DEFAULTS, OTHERS, SIDE, side
from transformer_jax.interop.config_keys import THEIR_ACTIVATIONS, Keys, written
from transformer_jax.interop.family import Architecture, Family
from transformer_jax.interop.rules import Rule, linear
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.config import LayerConfig
from transformer_jax.nn.inputs import Frames
from transformer_jax.nn.positions import Learned, Sinusoidal, sinusoids

SIZES = {"vocab_size": "vocab_size", "d_model": "d_model", "max_target_positions": "max_length"}
RATES = {theirs: ours for theirs, ours in OTHERS.items() if ours != "embedding_scale"}
POSITIONS = "model.encoder.embed_positions.weight"
OF_TRAINING = ("apply_spec_augment", "mask_time_prob", "mask_time_length", "mask_time_min_masks", "mask_feature_prob")
OF_TRAINING += ("mask_feature_length", "mask_feature_min_masks")
WITHOUT_EFFECT = ("scale_embedding", "num_hidden_layers", "classifier_proj_size", "median_filter_width")
WITHOUT_EFFECT += ("alignment_heads", "forced_decoder_ids", "is_multilingual", "use_weighted_layer_sum")
"""Keys of generation and of other classes; this family scales no embedding, whatever the key says."""


def to_config(keys: Keys) -> EncoderDecoderConfig:
    """Our configuration."""
    keys.skip(*OF_TRAINING, *WITHOUT_EFFECT)
    keys.only("tie_word_embeddings", True)
    for name in ("encoder_layerdrop", "decoder_layerdrop"):
        keys.in_training(name)
    encoder, decoder = (
        {ours: keys.take(f"{name}_{theirs}") for theirs, ours in SIDE.items()} for name in ("encoder", "decoder")
    )
    depth = decoder.pop("num_layers")
    rates = dict.fromkeys(RATES, 0.0)
    config = EncoderDecoderConfig(
        **keys.fields(SIZES | RATES, max_target_positions=448, **rates),
        **decoder,
        num_layers=encoder["num_layers"],
        num_decoder_layers=None if depth == encoder["num_layers"] else depth,
        activation=keys.activation("activation_function", DEFAULTS["activation_function"]),
        norm_epsilon=1e-5,
        norm_placement="pre",
        final_norm=True,
        attention_bias=True,
        key_bias=False,
        embedding_scale=False,
        positions=Learned(),
        input=Frames(keys.take("num_mel_bins", 80)),
    )
    shared: dict[str, Any] = {name: getattr(config, name) for name in LayerConfig.__dataclass_fields__}
    reads: dict[str, Any] = {"positions": Sinusoidal(interleaved=False, inclusive=True)}
    reads |= {"max_length": keys.take("max_source_positions", 1500)}
    return replace(config, encoder=LayerConfig(**shared | encoder | reads))


def from_config(config: EncoderDecoderConfig) -> dict[str, Any]:
    """Their configuration."""
    frames: Any = config.input
    sides = {"encoder": config.encoder_layers, "decoder": replace(config, num_layers=config.decoder_layers)}
    return {
        **written(SIZES | RATES, config),
        **{f"{name}_{theirs}": getattr(side, ours) for name, side in sides.items() for theirs, ours in SIDE.items()},
        "num_mel_bins": frames.num_mels,
        "max_source_positions": config.encoder_layers.max_length,
        "num_hidden_layers": config.num_layers,
        "activation_function": THEIR_ACTIVATIONS[config.activation],
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "scale_embedding": False,
        "is_encoder_decoder": True,
    }


def computed(config: EncoderDecoderConfig) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint that are no parameters here: the encoder's sinusoids."""
    places = jnp.arange(config.encoder_layers.max_length)[None]
    return {POSITIONS: np.asarray(sinusoids(places, config.d_model, interleaved=False, inclusive=True)[0])}


def preprocessor(config: EncoderDecoderConfig) -> str:
    """The content of preprocessor_config.json, as Whisper's own feature extractor has it."""
    frames: Any = config.input
    seconds = config.encoder_layers.max_length // 50
    values = {"feature_extractor_type": "WhisperFeatureExtractor", "processor_class": "WhisperProcessor"}
    numbers = {"chunk_length": seconds, "n_samples": seconds * 16_000, "nb_max_frames": seconds * 100}
    numbers |= {"feature_size": frames.num_mels, "hop_length": 160, "n_fft": 400, "sampling_rate": 16_000}
    others = {"padding_side": "right", "padding_value": 0.0, "return_attention_mask": False}
    return json.dumps(values | numbers | others, indent=2) + "\n"


WHISPER = Family(
    name="whisper",
    architectures=(Architecture("WhisperForConditionalGeneration"),),
    rules=(
        Rule("model.decoder.embed_tokens.weight", ("embedding/table",), "plain"),
        *linear("model.encoder.conv1", "encoder_input/convolution_0", form="convolution"),
        *linear("model.encoder.conv2", "encoder_input/convolution_1", form="convolution"),
        *side("encoder"),
        *side("decoder"),
    ),
    to_config=to_config,
    from_config=from_config,
    computed=computed,
    preprocessor=preprocessor,
    copies={"proj_out.weight": "model.decoder.embed_tokens.weight"},
)
