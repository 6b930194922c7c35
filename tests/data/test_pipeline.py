import gc
import itertools
import threading
import time
from collections import Counter

import numpy as np
import pytest

from transformer_jax.data.columns import Column
from transformer_jax.data.pipeline import batches
from transformer_jax.data.plan import BatchPlan
from transformer_jax.data.table import encode_table


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    random = np.random.default_rng(0)
    sizes = random.integers(1, 40, (300, 2)).tolist()
    examples = [{"source": "s" * source, "target": "t" * target} for source, target in sizes]

    def encode(rows):
        return {
            name: [random.integers(1, 100, len(row[name])).tolist() for row in rows] for name in ("source", "target")
        }

    columns, path = {"source": Column(), "target": Column()}, tmp_path_factory.mktemp("cache") / "train.arrow"
    return encode_table(examples, encode, columns, max_length=64, path=path, skipped=Counter())


@pytest.fixture(scope="module")
def plan(split):
    return BatchPlan(split.lengths, tokens_per_batch=512, num_buckets=4, batch_multiple=4, seed=0)


def same(found, expected):
    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], strict=True)


def test_batches_hold_the_ids_of_their_examples_and_zeros(split, plan):
    seen = []
    for position, batch in enumerate(batches(split, plan, stop=plan.batches_per_epoch)):
        bucket, examples = plan.batch(position)
        assert batch["example"].tolist() == examples.tolist()
        for feature, length in zip(split.columns, plan.shapes[bucket].lengths, strict=True):
            assert batch[feature].shape == (plan.shapes[bucket].rows, length)
            for row, example in enumerate(examples.tolist()):
                ids = split.column(feature)[example].tolist() if example >= 0 else []
                assert batch[feature][row].tolist() == ids + [0] * (length - len(ids))
                assert batch[f"{feature}_length"][row] == len(ids)
        assert all(array.dtype == np.int32 for array in batch.values())
        seen += examples.tolist()
    assert -1 in seen and sorted(example for example in seen if example >= 0) == list(range(300))


@pytest.mark.parametrize("processes", [2, 4])
def test_the_shares_of_all_processes_are_the_global_batches(split, plan, processes):
    stop = 2 * plan.batches_per_epoch
    # Another process has a plan of its own.
    shares = [
        batches(
            split,
            BatchPlan(split.lengths, tokens_per_batch=512, num_buckets=4, batch_multiple=4, seed=0),
            stop=stop,
            parts=[index],
            num_parts=processes,
        )
        for index in range(processes)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    same(joined, batches(split, plan, stop=stop))


def test_starting_in_the_middle_gives_what_follows(split, plan):
    stop = 2 * plan.batches_per_epoch + 3
    straight = list(batches(split, plan, stop=stop))
    for start in (1, plan.batches_per_epoch, plan.batches_per_epoch + 5, stop):
        same(batches(split, plan, start, stop=stop), straight[start:])


def test_without_a_stop_batches_go_on_over_epochs(split, plan):
    stop = 3 * plan.batches_per_epoch + 1
    same(itertools.islice(batches(split, plan), stop), batches(split, plan, stop=stop))


def test_shapes_are_those_of_the_plan(split, plan):
    found = {tuple(batch[feature].shape for feature in split.columns) for batch in batches(split, plan, stop=200)}
    assert found == {tuple((shape.rows, length) for length in shape.lengths) for shape in plan.shapes}


def test_an_abandoned_iterator_leaves_no_thread(split, plan):
    def prefetching():
        return [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]

    iterators = [batches(split, plan) for _ in range(5)]
    assert all(map(next, iterators)) and len(prefetching()) >= 5
    del iterators
    gc.collect()
    deadline = time.monotonic() + 200
    while prefetching() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not prefetching()
