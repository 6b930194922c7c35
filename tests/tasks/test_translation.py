import inspect
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files
from transformer_jax.data.tokenizers import Bytes
from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.positions import Learned
from transformer_jax.tasks.translation import Decoding, Translation, Translator

TOKENIZER = Bytes().train([])
TOKENIZERS = {"source": TOKENIZER, "target": TOKENIZER}
DATA = DataConfig(source=Files(), tokenizer=Bytes(), max_length=16)
MODEL = EncoderDecoderConfig(d_model=16, num_heads=2, d_ff=32, num_layers=1, dropout=0.1)
SIZES = {"source": 260, "target": 260}
TASK = Translation(decoding=Decoding(extra_length=4))


def batch_of(pairs, width):
    """Encoded pairs, padded to `width`."""
    batch = {}
    examples = [{"source": source, "target": target} for source, target in pairs]
    for feature, rows in TASK.encode(TOKENIZERS, examples, max_length=16).items():
        batch[feature] = np.array([row + [0] * (width - len(row)) for row in rows], np.int32)
        batch[f"{feature}_length"] = np.array([len(row) for row in rows], np.int32)
    return batch


@pytest.fixture(scope="module")
def loss():
    model = TASK.resolve(MODEL, DATA, SIZES).build(0)
    compiled = jax.jit(lambda batch, key: TASK.loss(model, batch, key))
    return lambda batch, key=None: compiled({name: jnp.asarray(array) for name, array in batch.items()}, key)


def test_sources_end_and_targets_start_and_end_with_their_tokens():
    letters = TOKENIZER.encode("ab")
    columns = TASK.encode(TOKENIZERS, [{"source": "ab", "target": "ab"}], max_length=16)
    assert columns == {
        "source": [[*letters, TOKENIZER.eos_id]],
        "target": [[TOKENIZER.bos_id, *letters, TOKENIZER.eos_id]],
    }


def test_the_model_takes_the_sizes_of_the_vocabularies():
    data, model = replace(DATA, shared_vocabulary=False), replace(MODEL, share_embeddings=False)
    resolved = TASK.resolve(model, data, {"source": 30, "target": 50})
    assert (resolved.source_vocab_size, resolved.vocab_size) == (30, 50)
    assert replace(resolved, source_vocab_size=0, vocab_size=0) == model


@pytest.mark.parametrize(
    ("task", "model", "data", "message"),
    [
        (TASK, MODEL, replace(DATA, shared_vocabulary=False), "share_embeddings needs data.shared_vocabulary"),
        (TASK, "a model", DATA, "needs an EncoderDecoderConfig as its model, not str"),
        (TASK, replace(MODEL, positions=Learned(), max_length=19), DATA, "max_length 19 is below data.max_length 16"),
        (replace(TASK, scores=("blue",)), MODEL, DATA, "unknown score 'blue'; known: bleu"),
        (replace(TASK, bleu_tokenize="x"), MODEL, DATA, "unknown task.bleu_tokenize 'x'"),
    ],
)
def test_contradictions_are_refused_in_one_line(task, model, data, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        # Unwrapped, because the type checks of the test suite would refuse another model before `resolve` does.
        inspect.unwrap(Translation.resolve)(task, model, data, SIZES)
    assert "\n" not in str(error.value)


def test_learned_positions_that_just_suffice_are_taken():
    assert TASK.resolve(replace(MODEL, positions=Learned(), max_length=20), DATA, SIZES).max_length == 20


def test_the_loss_counts_every_target_token_and_the_end_but_not_the_start(loss):
    sums = loss(batch_of([("abc", "de"), ("f", "ghijk")], 8))
    assert {name: float(weight) for name, (_, weight) in sums.items()} == {"loss": 3 + 6, "nll": 3 + 6}


def test_what_stands_in_padding_changes_neither_loss_nor_gradient(loss):
    batch = batch_of([("abc", "de"), ("f", "ghijk")], 8)
    other = {name: array.copy() for name, array in batch.items()}
    for feature, value in (("source", 259), ("target", 100)):
        for row, length in enumerate(batch[f"{feature}_length"]):
            other[feature][row, length:] = value
    for name, (total, _) in loss(batch).items():
        assert float(loss(other)[name][0]) == pytest.approx(float(total), rel=1e-6)
    other["target"][0, 1] += 1
    assert float(loss(other)["nll"][0]) != pytest.approx(float(loss(batch)["nll"][0]), rel=1e-6)


def test_losses_of_examples_alone_sum_to_that_of_their_batch(loss):
    pairs = [("abc", "de"), ("f", "ghijk"), ("longer than others", "a target that is longer")]
    together = loss(batch_of(pairs, 32))
    alone = [loss(batch_of([pair], width)) for pair, width in zip(pairs, (8, 8, 32), strict=True)]
    for name in ("loss", "nll"):
        for part in (0, 1):
            total = sum(float(sums[name][part]) for sums in alone)
            assert float(together[name][part]) == pytest.approx(total, rel=1e-5)


def test_rows_without_an_example_weigh_nothing(loss):
    batch = batch_of([("abc", "de")], 8)
    with_empty = {name: np.concatenate([array, np.zeros_like(array)]) for name, array in batch.items()}
    for name, (total, weight) in loss(batch).items():
        assert float(loss(with_empty)[name][0]) == pytest.approx(float(total), rel=1e-6)
        assert float(loss(with_empty)[name][1]) == float(weight)


def test_smoothing_changes_what_is_learnt_and_not_the_reported_likelihood(loss):
    batch = batch_of([("abc", "de")], 8)
    sums = loss(batch)
    assert float(sums["loss"][0]) != pytest.approx(float(sums["nll"][0]), rel=1e-4)
    model = TASK.resolve(MODEL, DATA, SIZES).build(0)
    arrays = {name: jnp.asarray(array) for name, array in batch.items()}
    plain = jax.jit(lambda: replace(TASK, label_smoothing=0.0).loss(model, arrays, None))()
    assert float(plain["loss"][0]) == float(plain["nll"][0]) == pytest.approx(float(sums["nll"][0]), rel=1e-6)


def test_a_key_turns_dropout_on(loss):
    batch = batch_of([("abc", "de")], 8)
    values = [float(loss(batch, key)["nll"][0]) for key in (jax.random.key(0), jax.random.key(1), None)]
    assert len(set(values)) == 3


def test_the_predictor_searches_as_the_task_says():
    model = TASK.resolve(MODEL, DATA, SIZES).build(0)
    predictor = TASK.predictor(model, TOKENIZERS, DATA)
    assert isinstance(predictor, Translator)
    assert predictor.decoding == TASK.decoding and predictor.max_length == 16 and predictor.model is model
