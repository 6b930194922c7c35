"""Frames of sound in front of a stack, against convolutions of PyTorch, alone and beside longer recordings."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transformer_jax.models.encoder_decoder import base
from transformer_jax.models.encoder_only import bert
from transformer_jax.nn.config import LayerConfig
from transformer_jax.nn.inputs import FrameInput, Frames
from transformer_jax.nn.parameters import named_parameters, replace_parameters
from transformer_jax.nn.positions import Learned, NoPositions

SIZES: dict[str, Any] = {"d_model": 16, "num_heads": 2, "d_ff": 24, "num_layers": 2, "dropout": 0.0}
WHISPER = Frames(5)
FAIRSEQ = Frames(5, kernel=5, strides=(2, 2), activation="glu", channels=12, scale=True)
KEYWORD = Frames(5, kernel=1, strides=(1,), activation="none", class_token=True)
PATCHES = Frames(5, kernel=4, strides=(4,), activation="none", class_token=True)
KINDS = {"whisper": WHISPER, "fairseq": FAIRSEQ, "keyword": KEYWORD, "patches": PATCHES}
LENGTHS = np.array([23, 10, 1])
FEATURES = np.random.default_rng(0).normal(size=(3, 23, 5)).astype(np.float32)
PADDED = np.where(np.arange(23)[None, :, None] < LENGTHS[:, None, None], FEATURES, 1e9)


def make_input(frames, positions=None):
    """The module, with biases that are not zero."""
    config = LayerConfig(**SIZES, positions=positions or NoPositions())
    module = FrameInput(config, frames, rngs=nnx.Rngs(0))
    keys = iter(jax.random.split(jax.random.key(1), 9))
    biased = {
        name: value + 0.3 * jax.random.normal(next(keys), value.shape)
        for name, value in named_parameters(module).items()
    }
    return replace_parameters(module, biased)


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_alone_and_beside_a_longer_one_gives_the_same_vectors(kind):
    module = make_input(KINDS[kind], Learned())
    together, lengths, _ = module(jnp.asarray(PADDED), lengths=jnp.asarray(LENGTHS))
    assert np.isfinite(together).all()
    for row, frames in enumerate(LENGTHS):
        alone, no_lengths, _ = module(jnp.asarray(FEATURES[row : row + 1, :frames]))
        assert no_lengths is None and alone.shape[1] == lengths[row] == KINDS[kind].left(frames) + KINDS[kind].first
        np.testing.assert_allclose(together[row, : lengths[row]], alone[0], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_are_those_of_pytorch(kind):
    torch = pytest.importorskip("torch")
    activation = {"gelu": torch.nn.functional.gelu, "glu": lambda x: torch.nn.functional.glu(x, 1), "none": lambda x: x}
    frames = KINDS[kind]
    module: Any = make_input(frames)
    x = torch.tensor(FEATURES[:, :20]).transpose(1, 2)
    for number, stride in enumerate(frames.strides):
        linear = getattr(module, f"convolution_{number}")
        kernel = torch.tensor(np.asarray(linear.kernel[...])).permute(2, 1, 0)
        padding = 0 if frames.kernel == stride else frames.kernel // 2
        x = torch.nn.functional.conv1d(x, kernel, torch.tensor(np.asarray(linear.bias[...])), stride, padding)
        x = activation[frames.activation](x)
    x = x.transpose(1, 2).numpy() * (4 if frames.scale else 1)
    vectors = module(jnp.asarray(FEATURES[:, :20])).vectors
    np.testing.assert_allclose(vectors[:, frames.first :], x, atol=1e-4)
    if frames.first:
        np.testing.assert_array_equal(vectors[2, 0], module.class_token[0])


def test_an_encoder_of_sound_with_a_decoder_of_text_sees_nothing_of_the_padding():
    model = base(**SIZES, vocab_size=11, input=WHISPER).build(0)
    target = jnp.ones((3, 3), jnp.int32)
    together = model(jnp.asarray(PADDED), target, source_lengths=jnp.asarray(LENGTHS))
    alone = model(jnp.asarray(FEATURES[1:2, :10]), target[:1])
    np.testing.assert_allclose(together[1, :, :11], alone[0, :, :11], atol=1e-4)
    memory = model.encode(jnp.asarray(PADDED), source_lengths=jnp.asarray(LENGTHS))
    logits, _ = model.extend(target, model.start_cache(memory, 3))
    np.testing.assert_allclose(logits[..., :11], together[..., :11], atol=1e-4)


@pytest.mark.parametrize(
    "pooling",
    ["attention", *(pytest.param(name, marks=pytest.mark.slow) for name in ("first", "mean", "first_and_mean"))],
)
def test_a_recording_is_pooled_from_its_class_token_or_its_own_frames(pooling):
    config = bert(
        **SIZES,
        token_types=0,
        max_length=30,
        input=KEYWORD,
        head="sequence",
        num_outputs=3,
        pooling=pooling,
        pooler=False,
    )
    model: Any = config.build(0)
    together = model(jnp.asarray(PADDED), lengths=jnp.asarray(LENGTHS))
    for row, frames in enumerate(LENGTHS):
        x = model.encode(jnp.asarray(FEATURES[row : row + 1, :frames])).vectors
        seen = {"first": x[:, 0], "mean": x[:, 1:].mean(axis=1)}
        seen["first_and_mean"] = jnp.concatenate([*seen.values()], axis=1)
        pooled = model.pooler.attention(x) if pooling == "attention" else seen[pooling]
        np.testing.assert_allclose(together[row], model.head(pooled)[0], atol=1e-5)


REFUSED = {
    "needs num_mels": Frames(),
    "is odd, or each of the strides": Frames(5, kernel=4),
    "unknown model.input.activation": Frames(5, activation="swish"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused(message):
    with pytest.raises(ValueError, match=message):
        base(**SIZES, vocab_size=9, input=REFUSED[message]).build(0)
    with pytest.raises(ValueError, match="first, mean, first_and_mean, attention, not 'distilled'"):
        bert(**SIZES, input=KEYWORD, head="sequence", num_outputs=3, pooling="distilled", pooler=False).build(0)
