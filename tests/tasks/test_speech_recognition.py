"""Texts of recordings: losses, error rates, and outputs that do not depend on what else is in a batch."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.data.audio import AudioTable
from transformer_jax.data.config import DataConfig
from transformer_jax.data.tokenizers import Bytes
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.inputs import Frames
from transformer_jax.nn.log_mel import LogMel
from transformer_jax.nn.positions import Learned
from transformer_jax.tasks import speech_recognition
from transformer_jax.tasks.losses import ctc_losses
from transformer_jax.tasks.scores import text_scores
from transformer_jax.tasks.speech_recognition import SpeechRecognition
from transformer_jax.tasks.text_metrics import spoken
from transformer_jax.tasks.translation import Decoding

RATE = 8_000
TOKENIZER = Bytes().train([])
TASK = SpeechRecognition(
    log_mel=LogMel(num_mels=20, sample_rate=RATE), decoding=Decoding(beam_size=2, max_new_tokens=8), ctc_weight=0.3
)
DATA = DataConfig(source=AudioTable(), tokenizer=Bytes(), max_length=120)
SMALL = EncoderDecoderConfig(d_model=16, num_heads=2, d_ff=24, num_layers=2, dropout=0.0, input=Frames(strides=(2, 2)))
MODEL: Any = TASK.resolve(SMALL, DATA, {"text": TOKENIZER.vocab_size}).build(0)
RANDOM = np.random.default_rng(0)


def noise(count):
    return RANDOM.normal(0, 0.1, count).astype(np.float32).clip(-1, 1)


EXAMPLES = [{"audio": noise(count), "text": text} for count, text in ((9_100, "a b"), (2_000, "cde"), (5_555, "f"))]


def batch_of(examples):
    encoded = TASK.encode({"text": TOKENIZER}, examples, max_length=DATA.max_length)
    arrays = {"samples": np.array(encoded["samples"]), "example": np.arange(len(examples))}
    for name in ("audio", "text"):
        rows = [np.asarray(value) for value in encoded[name]]
        sizes = [len(row) for row in rows]
        padded = [np.pad(row, ((0, max(sizes) - len(row)),) + ((0, 0),) * (row.ndim - 1)) for row in rows]
        arrays |= {name: np.stack(padded), f"{name}_length": np.array(sizes, np.int32)}
    return {name: jnp.asarray(array) for name, array in arrays.items()}


def test_the_losses_of_a_batch_are_the_sum_of_those_of_its_rows():
    loss = jax.jit(lambda batch: TASK.loss(MODEL, batch, None))
    together, alone = loss(batch_of(EXAMPLES)), [loss(batch_of([example])) for example in EXAMPLES]
    assert together.keys() == {"loss", "nll", "ctc"}
    for name, (total, weight) in together.items():
        assert float(total) == pytest.approx(sum(float(sums[name][0]) for sums in alone), rel=1e-4)
        assert weight == 4 + 4 + 2
    smoothed = replace(TASK, ctc_weight=0.0).loss(MODEL, batch_of(EXAMPLES), None)["loss"][0]
    joint = 0.7 * float(smoothed) + 0.3 * float(together["ctc"][0])
    assert float(together["loss"][0]) == pytest.approx(joint, rel=1e-5)


@pytest.mark.parametrize("ctc", [False, True])
def test_a_recording_alone_and_beside_a_longer_one_has_the_same_text(ctc):
    predictor = replace(TASK, ctc_decoding=ctc).predictor(MODEL, {"text": TOKENIZER}, DATA)
    sounds = [example["audio"] for example in EXAMPLES]
    texts = predictor.transcribe(sounds)
    assert texts == [predictor.predict([sound])[0] for sound in sounds]
    vectors = [predictor.embed([sound])[0] for sound in sounds]
    np.testing.assert_allclose(predictor.embed(sounds), vectors, atol=1e-5)
    assert np.shape(vectors) == (len(sounds), SMALL.d_model)
    if not ctc:
        both = predictor.search(sounds, n_best=2)
        assert [best.text for best, _ in both] == texts
        (again,) = predictor.search(sounds[1:2])
        assert again[0].score == pytest.approx(both[1][0].score, rel=1e-4)
        with pytest.raises(ValueError, match="the beam holds 1 to 2"):
            predictor.search(sounds, n_best=3)


def test_attention_is_of_each_word_and_sums_to_one():
    predictor, sound = TASK.predictor(MODEL, {"text": TOKENIZER}, DATA), EXAMPLES[0]["audio"]
    found = predictor.attention(sound, "ab cde")
    assert found.words == ["ab", "cde"] and found.weights.shape == (2, 2, 2, -(-len(found.features) // 4))
    np.testing.assert_allclose(found.weights.sum(axis=3), 1, atol=1e-5)


def test_ctc_losses_and_their_gradients_are_those_of_torch():
    torch = pytest.importorskip("torch")
    logits = RANDOM.normal(size=(4, 12, 7)).astype(np.float32)
    labels = np.array([[1, 2, 2, 5], [3, 0, 0, 0], [4, 4, 4, 4], [0, 0, 0, 0]])
    frames, lengths = np.array([12, 5, 6, 12]), np.array([4, 1, 4, -2])  # four equal ones need seven frames
    theirs = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.ctc_loss(
        theirs[:3].log_softmax(-1).transpose(0, 1),
        *map(torch.tensor, (labels[:3], frames[:3], lengths[:3])),
        blank=6,
        reduction="none",
        zero_infinity=True,
    )
    expected.sum().backward()
    arguments = map(jnp.asarray, (frames, labels, lengths))
    ours, back = jax.vjp(lambda logits: ctc_losses(logits, *arguments, blank=6), jnp.asarray(logits))
    np.testing.assert_allclose(ours, [*expected.detach().numpy(), 0], rtol=1e-5)
    assert float(ours[2]) == 0
    np.testing.assert_allclose(back(jnp.ones(4))[0], theirs.grad.numpy(), atol=1e-5)


def test_greedy_labels_lose_repetitions_and_then_blanks(monkeypatch):
    predictor = replace(TASK, ctc_decoding=True).predictor(MODEL, {"text": TOKENIZER}, DATA)
    a, b, blank = *TOKENIZER.encode("ab"), TOKENIZER.vocab_size
    labels = np.tile([a, a, blank, a, b, b, blank, blank, b], (8, 1))
    monkeypatch.setattr(speech_recognition, "_best_labels", lambda *_, read: (jnp.asarray(labels), jnp.full(8, 8)))
    assert predictor.transcribe([EXAMPLES[0]["audio"]]) == ["aab"]


def test_error_rates_are_jiwers_of_what_is_spoken():
    jiwer = pytest.importorskip("jiwer")
    right = ["It's the DOG'S bone - isn\u2019t it?", "Č. 5,  please!", "one two three", "..."]
    heard = ["it's a dogs bone isn't it", "č 5 please", "", "uh"]
    assert [spoken(text) for text in right] == ["it's the dog's bone isn't it", "č 5 please", "one two three", ""]
    scores = text_scores(heard, right, ("wer", "cer"))
    spoke, said = ([spoken(text) for text in texts[:3]] for texts in (right, heard))
    assert scores["wer"] == pytest.approx(100 * jiwer.wer(spoke, said) + 100 / 12)  # and a word that nobody said
    assert scores["cer"] == pytest.approx(100 * jiwer.cer(spoke, said) + 200 / len("".join(spoke)))
    assert f"jiwer-{version('jiwer')}" in scores["wer_signature"]
    assert text_scores(["b c"], [["a", "b d"]], ("wer",))["wer"] == 50
    assert TASK.metrics() == {"loss": "lower", "wer": "lower", "cer": "lower"}


def test_evaluation_and_samples_compare_texts(encoded):
    heard: Any = SimpleNamespace(
        texts=lambda audio, samples: ["a b", "cd", "x f"][: len(audio)], predict=lambda recordings: ["a b"]
    )
    long = {"audio": noise(3_000), "text": "x" * 255}
    rows = encoded(TASK, {"text": TOKENIZER}, [*EXAMPLES, long], max_length=DATA.max_length)
    assert rows.table.skipped == {"longer than 256 tokens": 1}
    scores = TASK.evaluate(heard, rows)
    assert scores["examples"] == 3 and scores["skipped"] == 1
    assert scores["wer"] == pytest.approx(100 * 2 / 4)
    assert TASK.samples(heard, EXAMPLES[:1]) == ["  -> a b"]
    assert TASK.samples(heard, [{"audio": Path("x/1.wav"), "text": "c"}]) == ["1.wav", "  -> a b  (not c)"]


REFUSED = {
    "max_length 200 is below 256 tokens": (TASK, replace(SMALL, positions=Learned(), max_length=200)),
    "needs an EncoderDecoderConfig": (TASK, SimpleNamespace()),
    "needs a task.ctc_weight": (replace(TASK, ctc_weight=0.0, ctc_decoding=True), SMALL),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_is_refused(message):
    task, model = REFUSED[message]
    with pytest.raises(ValueError, match=message):
        task.resolve(model, DATA, {"text": 300})
