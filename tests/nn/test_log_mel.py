"""Log-mel features, against those of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.nn.log_mel import LogMel

RANDOM = np.random.default_rng(0)
LENGTHS = (6_000, 3_777, 2_200)


def sound(samples, sample_rate=16_000):
    """A tone that rises, getting louder and softer, with noise in all bands: in empty ones float32 shows."""
    time = np.arange(samples) / sample_rate
    tone = np.sin(2 * np.pi * (200 + 900 * time) * time) * np.sin(9 * time)
    return (0.5 * tone + 0.05 * RANDOM.normal(size=samples)).astype(np.float32)


WAVES = [sound(length) for length in LENGTHS]
BATCH = np.full((3, LENGTHS[0] + 123), 1e6, np.float32)
for row, wave in zip(BATCH, WAVES, strict=True):
    row[: len(wave)] = wave


def theirs_whisper(wave, num_mels):
    transformers = pytest.importorskip("transformers")
    extractor = transformers.WhisperFeatureExtractor(feature_size=num_mels)
    features = extractor(wave, sampling_rate=16_000, padding="longest", return_tensors="np")["input_features"][0]
    return features.T


def theirs_kaldi(wave, num_mels):
    transformers = pytest.importorskip("transformers")
    extractor = transformers.Speech2TextFeatureExtractor(num_mel_bins=num_mels, feature_size=num_mels)
    return extractor(wave, sampling_rate=16_000, return_tensors="np")["input_features"][0]


CASES = [("whisper", theirs_whisper, 80), ("whisper", theirs_whisper, 128), ("kaldi", theirs_kaldi, 80)]


@pytest.mark.parametrize(("kind", "theirs", "num_mels"), CASES)
def test_features_are_those_of_transformers_whatever_stands_in_the_padding(kind, theirs, num_mels):
    features, frames = jax.jit(LogMel(kind, num_mels))(jnp.asarray(BATCH), jnp.asarray(LENGTHS))
    for row, wave in enumerate(WAVES):
        expected = theirs(wave, num_mels)
        assert frames[row] == len(expected) == LogMel(kind).frames(len(wave))
        np.testing.assert_allclose(features[row, : len(expected)], expected, atol=1e-4)
        assert not features[row, len(expected) :].any()


@pytest.mark.parametrize("kind", ["whisper", "kaldi", "standardised"])
@pytest.mark.parametrize(
    "sample_rate", [8_000, *(pytest.param(rate, marks=pytest.mark.slow) for rate in (16_000, 22_050))]
)
def test_a_waveform_alone_has_the_features_that_it_has_beside_longer_ones(kind, sample_rate):
    log_mel = LogMel(kind, 40, sample_rate)
    together, _ = jax.jit(log_mel)(jnp.asarray(BATCH), jnp.asarray(LENGTHS))
    for row, wave in enumerate(WAVES):
        alone, frames = log_mel(jnp.asarray(wave)[None])
        assert alone.shape == (1, frames[0], 40) == (1, log_mel.frames(len(wave)), 40)
        np.testing.assert_allclose(together[row, : frames[0]], alone[0], atol=1e-4)


@pytest.mark.parametrize("kind", ["whisper", "kaldi", "standardised"])
def test_what_is_shorter_than_a_frame_or_silent_has_finite_features(kind):
    features, frames = LogMel(kind)(jnp.zeros((4, 900)), jnp.array([0, 1, 399, 900]))
    assert np.isfinite(features).all() and frames.tolist() == ([0, 0, 0, 4] if kind == "kaldi" else [0, 0, 2, 5])
    empty, none = LogMel(kind)(jnp.zeros((2, 0)))
    assert empty.shape == (2, 0, 80) and not none.any()


def test_standardised_features_are_whispers_of_any_loudness():
    log_mel = jax.jit(LogMel("standardised", 40))
    features, frames = (np.asarray(each) for each in log_mel(jnp.asarray(BATCH), jnp.asarray(LENGTHS)))
    quiet, _ = log_mel(jnp.asarray(BATCH) / 100, jnp.asarray(LENGTHS))
    np.testing.assert_allclose(quiet, features, atol=1e-3)
    for row, (wave, count) in enumerate(zip(WAVES, frames, strict=True)):
        theirs = theirs_whisper(wave, 40)
        expected = np.maximum(theirs, theirs.max() - 5 / 4)
        np.testing.assert_allclose(
            features[row, :count], (expected - expected.mean()) / expected.std(), atol=1e-3, rtol=1e-3
        )


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="known: whisper, kaldi"):
        LogMel("mfcc")(jnp.zeros((1, 800)))
