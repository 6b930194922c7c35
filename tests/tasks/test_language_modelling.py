import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files
from transformer_jax.data.tokenizers import Bytes
from transformer_jax.models.decoder_only import gpt2
from transformer_jax.models.encoder_decoder import base
from transformer_jax.tasks.language_modelling import LanguageModelling
from transformer_jax.tasks.losses import cross_entropy

MODEL = gpt2(d_model=16, num_heads=2, d_ff=32, num_layers=2, max_length=16, dropout=0.0, attention_dropout=0.0)
DATA = DataConfig(source=Files(), tokenizer=Bytes(), max_length=8)
TASK = LanguageModelling()
TOKENIZERS = {"text": Bytes().train([])}
TEXTS = ["hello there, world", "a", "zebra!", "éléphant"]


@pytest.fixture(scope="module")
def model():
    return TASK.resolve(MODEL, DATA, {"text": 260}).build(0)


@pytest.fixture(scope="module")
def generator(model):
    return TASK.predictor(model, TOKENIZERS, DATA)


def documents():
    return TASK.encode(TOKENIZERS, [{"text": text} for text in TEXTS], max_length=8)["tokens"]


def loss_of(model, ids):
    """Losses of all tokens but the first, read at once."""
    tokens = jnp.asarray([ids])
    return np.asarray(cross_entropy(model(tokens[:, :-1]), tokens[:, 1:], vocab_size=260)[1])[0]


def test_documents_begin_and_end_with_their_tokens():
    tokenizer = TOKENIZERS["text"]
    assert documents()[1] == [tokenizer.bos_id, *tokenizer.encode("a"), tokenizer.eos_id]


@pytest.mark.parametrize("chunk", [0, 3])
def test_the_packed_loss_is_that_of_the_documents_alone(model, chunk):
    first, second = documents()[1:3]
    rows = {
        "tokens": [*first, *second],
        "segments": [1] * len(first) + [2] * len(second),
        "positions": [*range(len(first)), *range(len(second))],
    }
    batch = {name: jnp.asarray([row]) for name, row in rows.items()}
    task = dataclasses.replace(TASK, loss_chunk=chunk)
    total, weight = jax.jit(task.loss)(model, batch, None)["loss"]
    expected = np.concatenate([loss_of(model, ids) for ids in (first, second)])
    assert weight == len(expected)
    assert float(total) == pytest.approx(expected.sum(), rel=1e-5)
    drifting = dataclasses.replace(task, z_loss=0.1)
    found = [float(jax.jit(drifting.loss)(model, batch, key)["loss"][0]) for key in (None, jax.random.key(0))]
    assert found[0] == float(total) < found[1], "z-loss is no part of evaluation"


@pytest.mark.parametrize("stride", [1, 3, 8])
def test_long_texts_are_read_in_windows_that_predict_every_token_once(model, generator, stride):
    for text, ids, (total, count) in zip(TEXTS, documents(), generator.losses(TEXTS, stride=stride), strict=True):
        expected, done = [], 0
        for start in range(0, len(ids), stride):
            end = min(start + 8, len(ids) - 1)
            if end > done:
                expected += loss_of(model, ids[start : end + 1])[done - start :].tolist()
                done = end
        assert count == len(expected) == len(text.encode()) + 1
        assert total == pytest.approx(sum(expected), rel=1e-5)


def test_perplexity_and_bits_per_byte_follow_from_the_loss(generator, encoded):
    examples = encoded(TASK, TOKENIZERS, [{"text": text} for text in TEXTS], max_length=8)
    total, size = -sum(generator.score(TEXTS)), sum(len(text.encode()) for text in TEXTS)
    found = TASK.loss_metrics({"loss": (total, size + 4.0)}, examples)
    assert found["tokens"] == size + 4 and found["loss"] == pytest.approx(total / (size + 4))
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["bits_per_byte"] == pytest.approx(total / size / math.log(2))
    assert TASK.evaluate(generator, examples) == {"examples": 4}
    overlapping = dataclasses.replace(TASK, stride=8).evaluate(generator, examples)
    assert overlapping == {"examples": 4} | {name: pytest.approx(value, rel=1e-6) for name, value in found.items()}


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        (TASK, base(), "needs a model of the kind DecoderOnlyConfig"),
        (TASK, dataclasses.replace(MODEL, max_length=7), "model.max_length 7 is below data.max_length 8"),
        (TASK, dataclasses.replace(MODEL, vocab_size=9), "follows from the tokenizer"),
        (dataclasses.replace(TASK, stride=9), MODEL, "task.stride 9 is more than data.max_length"),
    ],
)
def test_what_contradicts_itself_is_refused(task, model, message):
    with pytest.raises(ValueError, match=message):
        task.resolve(model, DATA, {"text": 260})
