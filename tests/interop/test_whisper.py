"""Whisper's published weights, in the directory TRANSFORMER_JAX_MODELS or `shared/models` beside."""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.interop.published import open_published
from transformer_jax.nn.log_mel import LogMel

WINDOW = 480_000


@pytest.fixture(scope="module")
def directory():
    beside = Path(__file__).resolve().parents[3] / "shared" / "models"
    directory = Path(os.environ.get("TRANSFORMER_JAX_MODELS", beside)) / "whisper-tiny.en"
    if not directory.is_dir():
        pytest.skip(f"no published model at {directory}: name their directory in TRANSFORMER_JAX_MODELS")
    return directory


def waveform(path):
    soundfile = pytest.importorskip("soundfile")
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == 16_000
    return np.pad(samples, (0, WINDOW - len(samples)))


@pytest.mark.slow
def test_features_vectors_and_logits_are_those_that_were_recorded(directory, shared_data):
    model = open_published(directory).model()
    for item in json.loads((directory / "expected.json").read_text())["items"][:2]:
        wave = waveform(shared_data.parent / item["file"])
        features, _ = jax.jit(LogMel())(jnp.asarray(wave)[None])
        for place, value in item["log_mel_sample"].items():
            band, frame = map(int, place.split(","))
            assert features[0, frame, band] == pytest.approx(value, abs=1e-4)
        memory = jax.jit(type(model).encode)(model, features)
        found = np.asarray(memory.vectors[0, jnp.array([0, 100]), :8])
        np.testing.assert_allclose(found, item["encoder_out_frames_0_100_first8"], atol=2e-3)
        step = item["first_step_logits"]
        logits = np.asarray(model.logits(model.decode(jnp.asarray([step["prompt"]]), memory).vectors)[0])
        for row, ids, values in (
            (logits[-1], "position_last_top5_ids", "values"),
            (logits[0], "position_0_top5_ids", "position_0_values"),
        ):
            np.testing.assert_array_equal(np.argsort(-row)[:5], step[ids])
            np.testing.assert_allclose(row[step[ids]], step[values], atol=5e-3)


def test_other_positions_than_sinusoids_are_refused(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    sizes = {"d_model": 8, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 11}
    sizes |= {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "num_mel_bins": 4}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**sizes, **special))
    with torch.no_grad():
        model.model.encoder.embed_positions.weight[3] += 0.1
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="encoder.embed_positions.weight that differs"):
        open_published(tmp_path)
