import itertools

import numpy as np
import pytest

from transformer_jax.data.plan import BatchPlan, best_cuts


def lengths_like_text(count=3_000, seed=0):
    random = np.random.default_rng(seed)
    source = np.clip(random.lognormal(2.8, 0.6, count).astype(np.int32), 1, 200)
    target = np.clip((source * random.normal(1.1, 0.3, count)).astype(np.int32), 1, 200)
    return np.stack([source, target], axis=1)


def make(lengths, *, tokens_per_batch=2048, num_buckets=6, batch_multiple=8, seed=0, shuffle=True):
    return BatchPlan(
        lengths,
        tokens_per_batch=tokens_per_batch,
        num_buckets=num_buckets,
        batch_multiple=batch_multiple,
        seed=seed,
        shuffle=shuffle,
    )


def epoch_of(plan, epoch):
    start = epoch * plan.batches_per_epoch
    return [plan.batch(position) for position in range(start, start + plan.batches_per_epoch)]


def same(batches, others):
    return len(batches) == len(others) and all(
        bucket == other and np.array_equal(rows, other_rows)
        for (bucket, rows), (other, other_rows) in zip(batches, others, strict=True)
    )


def round_up(length):
    multiple = 4 if length <= 32 else 8
    return -(-length // multiple) * multiple


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_example_occurs_exactly_once_an_epoch(shuffle):
    plan = make(lengths_like_text(), shuffle=shuffle)
    for epoch in (0, 1, 7):
        examples = np.concatenate([rows for _, rows in epoch_of(plan, epoch)])
        assert sorted(examples[examples >= 0]) == list(range(3_000))


def test_epochs_and_seeds_differ():
    plan = make(lengths_like_text())
    assert not same(epoch_of(plan, 0), epoch_of(plan, 1))
    assert not same(epoch_of(plan, 0), epoch_of(make(lengths_like_text(), seed=1), 0))


def test_buckets_are_mixed_within_an_epoch():
    plan = make(lengths_like_text())
    buckets = [bucket for bucket, _ in epoch_of(plan, 0)]
    assert buckets != sorted(buckets) and buckets != [bucket for bucket, _ in epoch_of(plan, 1)]


def test_a_batch_depends_on_its_position_only():
    straight, jumping = make(lengths_like_text()), make(lengths_like_text())
    last = 3 * straight.batches_per_epoch - 1
    expected = [straight.batch(position) for position in range(last + 1)]
    for position in (last, 0, last // 2, 1, last):
        assert same([jumping.batch(position)], [expected[position]])


def test_the_plan_of_a_seed_never_changes():
    """A run must go on with the same batches on another version of NumPy."""
    lengths = np.array([[5], [9], [2], [7], [30], [11]])
    plan = make(lengths, tokens_per_batch=64, num_buckets=2, batch_multiple=2, seed=3)
    assert [(bucket, rows.tolist()) for bucket, rows in epoch_of(plan, 2)] == [
        (1, [4, -1]),
        (0, [2, 5, 1, 3]),
        (0, [0, -1, -1, -1]),
    ]


@pytest.mark.parametrize("num_buckets", [1, 2, 5, 16])
def test_shapes_are_few_and_keep_the_token_budget(num_buckets):
    lengths = lengths_like_text()
    plan = make(lengths, num_buckets=num_buckets)
    assert len(plan.shapes) <= num_buckets
    for bucket, rows in epoch_of(plan, 0):
        shape = plan.shapes[bucket]
        assert len(rows) == shape.rows and shape.rows % 8 == 0
        assert shape.rows * max(shape.lengths) <= 2048 < (shape.rows + 8) * max(shape.lengths)
        assert (lengths[rows[rows >= 0]] <= shape.lengths).all()


def test_more_buckets_pad_less():
    efficiency = [make(lengths_like_text(), num_buckets=count).padding_efficiency for count in (1, 2, 4, 8)]
    assert efficiency == sorted(efficiency) and efficiency[0] < 0.2 and efficiency[-1] > 0.65


def test_padding_efficiency_counts_every_token_of_an_epoch():
    lengths = lengths_like_text()
    plan = make(lengths)
    padded = sum(shape.rows * sum(shape.lengths) for shape in (plan.shapes[bucket] for bucket, _ in epoch_of(plan, 0)))
    assert plan.padding_efficiency == pytest.approx(lengths.sum() / padded)


def test_short_targets_are_not_padded_to_the_length_of_their_sources():
    plan = make(np.array([[40, 12]] * 50))
    assert [shape.lengths for shape in plan.shapes] == [(40, 12)]


def test_the_longest_of_a_feature_need_not_be_in_the_longest_example():
    plan = make(np.array([[4, 20], [40, 4], [12, 12]]), num_buckets=1)
    assert [shape.lengths for shape in plan.shapes] == [(40, 20)]


def test_cuts_are_those_of_brute_force():
    random = np.random.default_rng(0)
    for points, pieces in itertools.product((2, 5, 7), (1, 2, 3, 9)):
        cost = np.triu(random.random((points, points)), 1)
        cost[np.tril_indices(points, -1)] = np.inf
        ways = [
            [0, *inner, points - 1]
            for count in range(min(pieces, points - 1))
            for inner in itertools.combinations(range(1, points - 1), count)
        ]
        best = min(ways, key=lambda way: sum(cost[start, end] for start, end in itertools.pairwise(way)))
        assert best_cuts(cost, pieces) == best[1:]


@pytest.mark.parametrize("num_buckets", [1, 2, 3, 4])
def test_no_other_boundaries_give_fewer_padded_tokens(num_buckets):
    lengths = np.random.default_rng(1).integers(1, 60, (40, 2))
    plan = make(lengths, tokens_per_batch=256, num_buckets=num_buckets, batch_multiple=2)
    found = sum(shape.rows * sum(shape.lengths) for shape in (plan.shapes[bucket] for bucket, _ in epoch_of(plan, 0)))

    sizes = np.array([round_up(length) for length in lengths.max(axis=1)])
    limits = np.unique(sizes)[:-1].tolist()
    totals = []
    for boundaries in itertools.chain(*(itertools.combinations(limits, count) for count in range(num_buckets))):
        total, low = 0, 0
        for high in (*boundaries, sizes.max()):
            members = lengths[(sizes > low) & (sizes <= high)]
            shape = [round_up(length) for length in members.max(axis=0)]
            rows = 256 // max(shape) // 2 * 2
            total += -(-len(members) // rows) * rows * sum(shape)
            low = high
        totals.append(total)
    assert found == min(totals)


def test_without_shuffling_batches_go_from_short_to_long_in_their_order():
    plan = make(lengths_like_text(), shuffle=False)
    batches = epoch_of(plan, 0)
    buckets = [bucket for bucket, _ in batches]
    assert buckets == sorted(buckets) and same(batches, epoch_of(plan, 1))
    assert [max(shape.lengths) for shape in plan.shapes] == sorted(max(shape.lengths) for shape in plan.shapes)
    for bucket, group in itertools.groupby(batches, key=lambda batch: batch[0]):
        rows = np.concatenate([rows for _, rows in group])
        real = rows[rows >= 0]
        assert (np.diff(real) > 0).all() and (rows[len(real) :] == -1).all(), f"bucket {bucket}"


def test_rows_that_do_not_fit_are_refused_with_what_to_set():
    with pytest.raises(ValueError) as error:
        make(np.array([[3, 4], [100, 250]]), tokens_per_batch=2000)
    assert str(error.value) == (
        "8 rows (data.batch_multiple) of 256 tokens are more than data.tokens_per_batch 2000; "
        "set it to 2048 or lower data.max_length"
    )
    assert make(np.array([[3, 4], [100, 250]]), tokens_per_batch=2048).shapes[-1] == (8, (100 + 4, 256))


def test_one_example_makes_one_batch():
    plan = make(np.array([[7, 3]]), batch_multiple=4, tokens_per_batch=32)
    assert plan.shapes == [(4, (8, 4))] and plan.batches_per_epoch == 1
    for position in (0, 1, 2):
        bucket, rows = plan.batch(position)
        assert bucket == 0 and rows.tolist() == [0, -1, -1, -1]


def test_equal_lines_make_one_shape():
    plan = make(np.full((10_000, 2), 16))
    assert plan.shapes == [(128, (16, 16))] and plan.batches_per_epoch == -(-10_000 // 128)
