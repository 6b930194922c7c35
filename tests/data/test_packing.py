from collections import Counter

import numpy as np
import pytest

from transformer_jax.data.columns import Column
from transformer_jax.data.packing import EveryToken, PackedPlan, segments
from transformer_jax.data.pipeline import batches
from transformer_jax.data.table import encode_table

LENGTHS = np.random.default_rng(0).integers(2, 60, 200)


def make_plan(lengths=LENGTHS, *, length=16, tokens_per_batch=128, seed=0):
    return PackedPlan(lengths, length=length, tokens_per_batch=tokens_per_batch, batch_multiple=4, seed=seed)


def predicted(plan, epoch):
    """(document, place) of every token that is predicted in an epoch from a token of its own document."""
    found = Counter()
    for position in range(epoch * plan.batches_per_epoch, (epoch + 1) * plan.batches_per_epoch):
        documents, places = plan.batch(position)
        numbers, _ = segments(places)
        real = numbers[:, 1:] == numbers[:, :-1]
        found.update(zip(documents[:, 1:][real].tolist(), places[:, 1:][real].tolist(), strict=True))
    return found


def test_every_token_is_predicted_once_but_for_less_than_a_batch_and_a_row():
    plan = make_plan()
    for epoch in range(3):
        found = predicted(plan, epoch)
        assert max(found.values()) == 1
        left_out = LENGTHS.sum() - len(LENGTHS) - len(found)
        assert 0 <= left_out < 128 + 16


def test_no_token_of_a_row_is_padding_and_rows_begin_where_others_end():
    plan = make_plan()
    documents, places = plan.batch(0)
    assert documents.shape == places.shape == (8, 17)
    assert (places < LENGTHS[documents]).all() and (places >= 0).all()
    same = documents[:, 1:] == documents[:, :-1]
    assert (places[:, 1:][same] == places[:, :-1][same] + 1).all()
    assert (places[:, 1:][~same] == 0).all() and (places[:, :-1][~same] == LENGTHS[documents[:, :-1][~same]] - 1).all()


def test_segments_and_positions_are_those_of_a_loop():
    places = np.array([[3, 4, 0, 1, 2, 0, 0], [0, 1, 2, 3, 4, 5, 6]])
    numbers, positions = segments(places)
    assert numbers.tolist() == [[1, 1, 2, 2, 2, 3, 4], [1] * 7]
    assert positions.tolist() == [[0, 1, 0, 1, 2, 0, 0], [0, 1, 2, 3, 4, 5, 6]]
    assert places[0].tolist() == [3, 4, 0, 1, 2, 0, 0], "the argument stays"


def test_a_plan_depends_on_seed_and_epoch_alone():
    for position in (0, 7, 100):
        for one, other in zip(make_plan().batch(position), make_plan().batch(position), strict=True):
            np.testing.assert_array_equal(one, other)
    plan = make_plan()
    assert (plan.batch(0)[0] != plan.batch(plan.batches_per_epoch)[0]).any(), "epochs differ"
    assert (plan.batch(0)[0] != make_plan(seed=1).batch(0)[0]).any()


@pytest.mark.parametrize("lengths", [[3], [2, 5], [100]])
def test_a_corpus_of_less_than_a_batch_is_repeated(lengths):
    plan = make_plan(np.array(lengths))
    documents, places = plan.batch(5)
    assert plan.batches_per_epoch == 1 and documents.shape == (8, 17)
    assert (places < np.array(lengths)[documents]).all()


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="set it to 64"):
        make_plan(tokens_per_batch=32)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_batches_hold_the_ids_of_the_documents_whatever_the_number_of_processes(tmp_path, processes):
    def encode(rows):
        return {"tokens": [[1000 * int(row["text"]) + i for i in range(LENGTHS[int(row["text"])])] for row in rows]}

    examples = [{"text": str(i)} for i in range(len(LENGTHS))]
    path = tmp_path / "train.arrow"
    split = encode_table(examples, encode, {"tokens": Column()}, max_length=None, path=path, skipped=Counter())
    shares = [list(batches(split, make_plan(), 3, stop=6, parts=[i], num_parts=processes)) for i in range(processes)]
    for number, position in enumerate(range(3, 6)):
        documents, places = make_plan().batch(position)
        tokens = np.concatenate([share[number]["tokens"] for share in shares])
        np.testing.assert_array_equal(tokens, 1000 * documents + places)
        assert tokens.dtype == np.int32
        for name, array in (("example", documents), ("place", places)):
            np.testing.assert_array_equal(np.concatenate([share[number][name] for share in shares]), array[:, 0])


def test_evaluation_predicts_every_token_once_and_none_of_the_padding():
    plan = EveryToken(LENGTHS, length=16, tokens_per_batch=128, batch_multiple=4)
    expected = {(document, place) for document, size in enumerate(LENGTHS) for place in range(1, size)}
    assert predicted(plan, 0) == Counter(expected)
    few = EveryToken(np.array([3, 40]), length=16, tokens_per_batch=1024, batch_multiple=4)
    assert few.shapes[0].rows == 4 and few.batches_per_epoch == 1
