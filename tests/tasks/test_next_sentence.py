from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files
from transformer_jax.data.tokenizers import Bytes
from transformer_jax.models.encoder_only import bert
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.tasks.losses import cross_entropy
from transformer_jax.tasks.next_sentence import NextSentence, _pair
from transformer_jax.tasks.sequences import padded

MODEL = bert(
    d_model=16,
    num_heads=2,
    d_ff=32,
    num_layers=2,
    max_length=24,
    dropout=0.0,
    attention_dropout=0.0,
    head="pretraining",
)
MODEL_ONLY = replace(MODEL, head="language_model", vocab_size=261)
DATA = DataConfig(source=Files(), tokenizer=Bytes(mask=True), max_length=24)
TASK = NextSentence(rate=0.3)
TOKENIZER = Bytes(mask=True).train([])
TOKENIZERS = {"text": TOKENIZER}
# Each document has a letter of its own, so that one sees where a part is from.
TEXTS = [letter * size for letter, size in zip("abcdefgh", (1, 2, 5, 9, 14, 18, 40, 12), strict=True)]


@pytest.fixture(scope="module")
def model():
    return TASK.resolve(MODEL, DATA, {"text": TOKENIZER.vocab_size}).build(0)


def batch(epoch=0, rows=(*range(8),)):
    columns = TASK.encode(TOKENIZERS, [{"text": text} for text in TEXTS], max_length=24)
    arrays = {"example": np.array(rows, np.int32)}
    for name, ids in columns.items():
        chosen = [ids[row] if row >= 0 else [] for row in rows]
        arrays[name], arrays[f"{name}_length"] = padded(chosen, len(chosen), 24)
    return TASK.augment(arrays, TOKENIZERS, seed=0, epoch=epoch)


def unmasked(found):
    """The tokens of a batch as they stood there before they were masked."""
    tokens = found["tokens"].copy()
    for row, (places, labels) in enumerate(zip(found["places"], found["labels"], strict=True)):
        tokens[row, places[labels >= 0]] = labels[labels >= 0]
    return tokens


def test_pairs_are_two_parts_of_a_document_or_of_two():
    kinds = []
    for epoch in range(40):
        found = batch(epoch)
        for row, ids in enumerate(unmasked(found)):
            ids, first = ids[: found["tokens_length"][row]].tolist(), found["first"][row]
            assert ids[0] == TOKENIZER.bos_id and ids[first - 1] == ids[-1] == TOKENIZER.eos_id
            one, two = TOKENIZER.decode(ids[1 : first - 1]), TOKENIZER.decode(ids[first:-1])
            letter = TEXTS[row][0]
            assert one and two and set(one) == {letter} and len(set(two)) == 1
            assert (two[0] == letter) == bool(found["follows"][row])
            assert len(one) + len(two) <= max(min(len(TEXTS[row]), 21), 2)
            kinds.append((row, int(found["follows"][row]), len(one)))
    assert 0.4 < np.mean([follows for row, follows, _ in kinds if row > 0]) < 0.6
    assert not any(follows for row, follows, _ in kinds if row == 0), "one token cannot be divided"
    assert {size for row, _, size in kinds if row == 2} == {1, 2, 3, 4}


def test_where_a_text_ends_does_not_tell_pairs_apart():
    tokens = [TOKENIZER.encode(text) for text in ("abcdefghijk.", "mnopqrstuvwx!")]
    kinds = set()
    for epoch in range(20):
        one, two, follows = _pair(tokens[0], tokens[1], 0, epoch, 0)
        assert one + two == tokens[0] if follows else two == tokens[1][-len(two) :]
        assert len(one) + len(two) == len(tokens[0])
        kinds.add(follows)
    assert kinds == {0, 1}
    assert _pair(tokens[0], tokens[0], 0, 0, 0)[2] == 1, "a document does follow from itself"


def test_a_row_is_the_same_in_any_company_and_an_empty_one_stays_empty():
    whole, part = batch(3), batch(3, rows=(5, -1, 2))
    for name in whole:
        np.testing.assert_array_equal(part[name][[0, 2]], whole[name][[5, 2]], err_msg=name)
    assert part["tokens_length"][1] == 0 and (part["labels"][1] == -1).all()
    shapes = {name: array.shape for name, array in TASK.abstract_batch(8, 24).items()}
    assert {name: array.shape for name, array in whole.items()} == shapes


def test_the_loss_is_that_of_masked_tokens_and_of_pairs_one_by_one(model):
    found = batch(rows=(*range(8), -1))
    arrays = {name: jnp.asarray(array) for name, array in found.items()}
    sums = jax.jit(TASK.loss)(model, arrays, None)
    total, weight, pairs, right = 0.0, 0, 0.0, 0
    for row in range(8):
        size = int(found["tokens_length"][row])
        types = (jnp.arange(size)[None] >= found["first"][row]).astype(jnp.int32)
        vectors = model.encode(arrays["tokens"][row : row + 1, :size], token_types=types)
        logits = model.predict(vectors)
        for place, label in zip(found["places"][row], found["labels"][row], strict=True):
            if label >= 0:
                total += float(
                    cross_entropy(logits[:, place][:, None], jnp.asarray([[label]]), vocab_size=261)[1][0, 0]
                )
                weight += 1
        follows = jax.nn.log_softmax(model.predict_next(vectors)[0])
        pairs -= float(follows[found["follows"][row]]) * 0.3 * size
        right += int(jnp.argmax(follows) == found["follows"][row])
    np.testing.assert_allclose(np.array(sums["nll"]), (total, weight), rtol=1e-4)
    np.testing.assert_allclose(np.array(sums["loss"]), (total + pairs, weight), rtol=1e-4)
    np.testing.assert_array_equal(np.array(sums["next_sentence"]), (right, 8))
    gradient = named_parameters(jax.jit(jax.grad(lambda model: TASK.loss(model, arrays, None)["loss"][0]))(model))
    assert all(np.abs(value).max() > 0 for value in gradient.values())


def test_the_model_says_what_follows_and_fills_masks(model):
    filler = TASK.predictor(model, TOKENIZERS, DATA)
    assert "<mask>" not in filler.fill(["ab<mask>"])[0]
    for value, (one, two) in zip(filler.follows(pairs := [("abc", "d"), ("e", "fghi")]), pairs, strict=True):
        ids = [[2, *TOKENIZER.encode(one), 3], [*TOKENIZER.encode(two), 3]]
        types = jnp.asarray([[0] * len(ids[0]) + [1] * len(ids[1])])
        vectors = model.encode(jnp.asarray([ids[0] + ids[1]]), token_types=types)
        assert value == pytest.approx(float(jax.nn.softmax(model.predict_next(vectors)[0])[1]), rel=1e-4)


def test_the_model_gets_the_head_that_the_task_needs():
    assert TASK.resolve(bert(max_length=24), DATA, {"text": 261}).head == "pretraining"
    language_model = MODEL_ONLY.build(0)
    with pytest.raises(ValueError, match="only a model with the head pretraining"):
        TASK.predictor(language_model, TOKENIZERS, DATA).follows([("a", "b")])
