import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files
from transformer_jax.data.tokenizers import Bytes
from transformer_jax.models.decoder_only import gpt2
from transformer_jax.models.encoder_only import bert
from transformer_jax.tasks.losses import cross_entropy
from transformer_jax.tasks.masked_language_modelling import MaskedLanguageModelling

SIZE = {"d_model": 16, "num_heads": 2, "d_ff": 32, "num_layers": 2, "max_length": 16}
MODEL = bert(**SIZE, dropout=0.0, attention_dropout=0.0)
DATA = DataConfig(source=Files(), tokenizer=Bytes(mask=True), max_length=16)
TASK = MaskedLanguageModelling(rate=0.3)
TOKENIZER = Bytes(mask=True).train([])
TOKENIZERS = {"text": TOKENIZER}


@pytest.fixture(scope="module")
def model():
    return TASK.resolve(MODEL, DATA, {"text": TOKENIZER.vocab_size}).build(0)


@pytest.fixture(scope="module")
def filler(model):
    return TASK.predictor(model, TOKENIZERS, DATA)


def packed(epoch=0):
    """A batch of a packed plan, augmented."""
    tokens = np.random.default_rng(0).integers(4, 260, (6, 17)).astype(np.int32)
    segments = np.where(np.arange(17) < 5, 1, 2)[None].repeat(6, 0)
    positions = np.where(np.arange(17) < 5, np.arange(17), np.arange(17) - 5)[None].repeat(6, 0)
    batch = {"tokens": tokens, "segments": segments, "positions": positions}
    batch |= {"example": np.arange(6), "place": np.zeros(6, int)}
    return tokens[:, :-1], TASK.augment(batch, TOKENIZERS, seed=0, epoch=epoch)


def test_a_batch_says_what_stood_at_the_places_to_predict():
    tokens, batch = packed()
    known = batch["labels"] >= 0
    np.testing.assert_array_equal(np.take_along_axis(tokens, batch["places"], axis=1)[known], batch["labels"][known])
    changed = tokens != batch["tokens"]
    assert changed.sum() > 10 and (changed.sum(axis=1) <= known.sum(axis=1)).all()
    for row in range(6):
        assert set(np.flatnonzero(changed[row])) <= set(batch["places"][row][known[row]].tolist())
    abstract = TASK.abstract_batch(6, 16)
    assert {name: array.shape for name, array in batch.items()} == {
        name: array.shape for name, array in abstract.items()
    }
    assert (packed(epoch=1)[1]["tokens"] != batch["tokens"]).any()


def test_the_loss_is_that_of_the_masked_documents_alone(model):
    _, batch = packed()
    arrays = {name: jnp.asarray(array) for name, array in batch.items()}
    sums = jax.jit(TASK.loss)(model, arrays, None)
    total = count = 0.0
    for row in range(6):
        for start, end in ((0, 5), (5, 16)):
            logits = model(arrays["tokens"][row : row + 1, start:end])
            for place, label in zip(batch["places"][row], batch["labels"][row], strict=True):
                if label >= 0 and start <= place < end:
                    found = cross_entropy(logits[:, place - start][:, None], jnp.asarray([[label]]), vocab_size=261)
                    total, count = total + float(found[1][0, 0]), count + 1
    assert float(sums["loss"][1]) == count > 10
    assert float(sums["loss"][0]) == pytest.approx(total, rel=1e-4)


def test_masks_are_filled_with_the_most_probable_tokens(model, filler):
    assert filler.mask == "<mask>"
    text = "ab<mask>d<mask>"
    found = filler.candidates(text, 3)
    ids = [TOKENIZER.bos_id, *TOKENIZER.encode("ab"), TOKENIZER.mask_id, *TOKENIZER.encode("d"), TOKENIZER.mask_id]
    ids.append(TOKENIZER.eos_id)
    probabilities = np.asarray(jax.nn.softmax(model(jnp.asarray([ids]))[0, :, :261], axis=-1))
    for place, candidates in zip((3, 5), found, strict=True):
        best = np.sort(probabilities[place])[::-1][:3]
        np.testing.assert_allclose([value for _, value in candidates], best, rtol=1e-4)
    expected = text
    for place in (3, 5):
        best = int(probabilities[place].argmax())
        expected = expected.replace("<mask>", TOKENIZER.decode([best]).strip() or TOKENIZER.piece(best), 1)
    assert filler.fill([text, "no mask", text]) == [expected, "no mask", expected]
    with pytest.raises(ValueError, match="the text has no <mask>"):
        filler.candidates("nothing")
    with pytest.raises(ValueError, match="line 1 has 17 tokens, more than the 16"):
        filler.embed(["x" * 15])


def test_samples_of_texts_that_are_too_long_are_shortened(filler):
    line, answer = TASK.samples(filler, [{"text": "some words that are longer than a row"}])
    assert "<mask>" in line and filler.fits(line) and answer.startswith("  -> ")


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        (TASK, gpt2(), "MaskedLanguageModelling needs a model of the kind EncoderOnlyConfig, not DecoderOnlyConfig"),
        (TASK, dataclasses.replace(MODEL, max_length=9), "model.max_length 9 is below data.max_length 16"),
    ],
)
def test_what_contradicts_itself_is_refused(task, model, message):
    with pytest.raises(ValueError, match=message):
        task.resolve(model, DATA, {"text": 261})


def test_a_vocabulary_without_a_mask_is_refused(model):
    with pytest.raises(ValueError, match="no mask token"):
        TASK.predictor(model, {"text": Bytes().train([])}, DATA)
