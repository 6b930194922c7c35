"""Recordings are read alike alone and beside longer ones, and changed at random by their example alone."""

import io
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.data.audio import AudioFolders, encode_audio
from transformer_jax.data.config import DataConfig
from transformer_jax.data.labels import Labels
from transformer_jax.models.encoder_only import EncoderOnlyConfig, bert
from transformer_jax.nn.inputs import Frames
from transformer_jax.nn.log_mel import LogMel
from transformer_jax.nn.positions import Learned
from transformer_jax.tasks.audio import AudioAugmentation, hidden, waveforms_of
from transformer_jax.tasks.audio_classification import AudioClassification

RATE = 8_000
TASK = AudioClassification(log_mel=LogMel("kaldi", num_mels=20, sample_rate=RATE))
DATA = DataConfig(source=AudioFolders(), max_length=120, tokens_per_batch=256)
LABELS = Labels(names=("a", "b", "c", "d", "e", "f"))
SMALL = EncoderOnlyConfig(
    d_model=16, num_heads=2, d_ff=24, num_layers=2, input=Frames(strides=(2, 2), class_token=True), pooler=False
)
MODEL: Any = TASK.resolve(SMALL, DATA, {"label": 6}).build(0)
RANDOM = np.random.default_rng(0)


def noise(count):
    return RANDOM.normal(0, 0.1, count).astype(np.float32).clip(-1, 1)


def batch_of(sounds, examples=None):
    encoded = TASK.encode(
        {"label": LABELS}, [{"audio": sound, "label": "b"} for sound in sounds], max_length=DATA.max_length
    )
    most = max(map(len, encoded["audio"]))
    audio = np.stack([np.pad(one, ((0, most - len(one)), (0, 0))) for one in encoded["audio"]])
    examples = range(len(sounds)) if examples is None else examples
    arrays = {"samples": encoded["samples"], "label": encoded["label"], "example": examples}
    return {"audio": jnp.asarray(audio)} | {name: jnp.asarray(list(value)) for name, value in arrays.items()}


def test_a_recording_alone_and_beside_a_longer_one_has_the_same_predictions():
    sounds = [noise(count) for count in (1_200, 4_001, 9_123, 300)]
    predictor = TASK.predictor(MODEL, {"label": LABELS}, DATA)
    together = np.asarray(MODEL(*TASK.read(batch_of(sounds), None)[:1], lengths=TASK.read(batch_of(sounds), None)[1]))
    np.testing.assert_allclose(predictor.outputs(sounds), together, atol=1e-5)
    for sound, row in zip(sounds, together, strict=True):
        np.testing.assert_allclose(predictor.outputs([sound])[0], row, atol=1e-5)


def test_the_loss_is_that_of_real_rows():
    task = replace(TASK, label_smoothing=0.2)
    sums = jax.jit(lambda batch: task.loss(MODEL, batch, None))(batch_of([noise(1_500)] * 3, (4, 2, -1)))
    assert {float(weight) for _, weight in sums.values()} == {2.0} and sums.keys() >= {"nll", "accuracy", "top_5"}


HOW = AudioAugmentation(speed=0.2, noise=0.5, time_masks=2, time_width=9, frequency_masks=1, frequency_width=5)


def test_random_changes_belong_to_the_example_and_the_step():
    task, key = replace(TASK, augmentation=HOW), jax.random.key(3)
    first, second = noise(5_000), noise(4_000)
    read = jax.jit(task.read)
    one, counts = read(batch_of([first, second], (7, 9)), key)
    other, others = read(batch_of([second, first, noise(5_000)], (9, 7, 1)), key)
    np.testing.assert_allclose(one, np.asarray(other)[[1, 0]], atol=1e-5)
    np.testing.assert_array_equal(counts, others[np.array([1, 0])])
    assert not np.allclose(one, read(batch_of([first, second], (7, 9)), jax.random.key(4))[0])
    np.testing.assert_array_equal(task.read(batch_of([first]), None)[0], TASK.read(batch_of([first]), None)[0])


def test_masks_are_stretches_of_time_and_bands_of_frequency_with_the_mean():
    features = jnp.where(jnp.arange(30)[None, :, None] < jnp.array([30, 20])[:, None, None], 1.0, 0.0)
    features = features * jnp.arange(1.0, 13)[None, None] * jnp.ones((2, 30, 12))
    frames = jnp.array([30, 20])
    draws = jnp.asarray(np.random.default_rng(1).uniform(size=(2, 6)).astype(np.float32)).at[:, 0].set(0.9)
    found = np.asarray(HOW.masked(features, frames, draws))
    changed = found != np.asarray(features)
    for row, count in enumerate((30, 20)):
        assert not changed[row, count:].any() and np.unique(found[row][changed[row]]).tolist() == [6.5]
        times, bands = changed[row, :count].all(axis=1), changed[row, :count].all(axis=0)
        assert 1 <= times.sum() <= 18 and bands.sum() <= 5
        assert (changed[row, :count] == times[:, None] | bands[None]).all()
    widths = [hidden(50, jnp.full((1, 1), 7.0), jnp.full((1, 1), 40), jnp.array([[a, b]])).sum()
              for a in (0.0, 0.5, 0.999) for b in (0.0, 0.999)]  # fmt: skip
    assert [int(width) for width in widths] == [0, 0, 4, 4, 7, 7]


def test_faster_recordings_are_shorter_and_higher():
    time = np.arange(4_000) / RATE
    tone = jnp.asarray(np.sin(2 * np.pi * 500 * time), jnp.float32)[None]
    for draw, speed in ((0.0, 0.8), (0.5, 1.0), (1.0, 1.2)):
        faster, (samples,) = HOW.faster(tone, jnp.array([3_000]), jnp.array([[draw]]))
        spectrum = np.abs(np.fft.rfft(faster[0, :2_400] * np.hanning(2_400)))
        assert spectrum.argmax() * RATE / 2_400 == pytest.approx(500 * speed, abs=4)
        assert int(samples) == pytest.approx(3_000 / speed, abs=1)


def test_slower_recordings_lose_nothing_where_there_is_no_room():
    sound = jnp.asarray(noise(4_000))[None]
    slower, (samples,) = HOW.faster(sound, jnp.array([4_000]), jnp.array([[0.0]]))
    np.testing.assert_array_equal(slower, sound)
    assert int(samples) == 4_000


def test_noise_is_as_loud_as_was_drawn():
    sound = jnp.pad(jnp.asarray(noise(3_000))[None], ((0, 0), (0, 1_000)))
    noisy = HOW.noisy(sound, jnp.array([3_000]), jnp.array([[0.0, 0.8]]), jnp.asarray(RANDOM.normal(size=(1, 4_000))))
    assert float((noisy - sound).std()) == pytest.approx(0.5 * 0.8 * float(sound[0, :3_000].std()), rel=0.05)


def test_the_predictor_reads_files_bytes_and_arrays(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    predictor, samples = TASK.predictor(MODEL, {"label": LABELS}, DATA), noise(3_000)
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="FLOAT")
    (tmp_path / "one.wav").write_bytes(file.getvalue())
    (label,) = predictor.predict([str(tmp_path / "one.wav")])
    assert predictor.classify([file.getvalue(), samples]) == [label, label] and predictor.classify([]) == []
    alone, beside = predictor.embed([samples])[0], predictor.embed([samples, noise(9_000)])[0]
    audio, count = encode_audio(samples, RATE)
    features, frames = TASK.log_mel(waveforms_of(jnp.asarray(audio[None])), jnp.array([count]))
    vectors = MODEL.encode(features[:, : int(frames[0])]).vectors
    np.testing.assert_allclose([alone, beside], 2 * [np.asarray(vectors[0]).mean(axis=0)], atol=1e-5)
    (tmp_path / "two.wav").write_text("nothing")
    long = ("a recording of 250 frames, not of 1 to 120", noise(20_000))
    for message, sound in (
        ("no sound: Format not recognised", str(tmp_path / "two.wav")),
        long,
        ("of 0 frames", noise(10)),
    ):
        with pytest.raises(ValueError, match=f"line 2: .* is .*{message}"):
            predictor.classify([samples, sound])
    with pytest.raises(TypeError, match="a list of recordings"):
        predictor.classify("one.wav")


REFUSED = {
    "needs model.input Frames": bert(),
    "of task.log_mel.num_mels": replace(SMALL, input=Frames(num_mels=80)),
    "max_length 16 is below the 31 vectors": replace(SMALL, positions=Learned(), max_length=16),
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_model_that_does_not_fit_is_refused(message):
    with pytest.raises(ValueError, match=message):
        TASK.resolve(REFUSED[message], DATA, {"label": 6})
