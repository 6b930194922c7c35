"""A source of arrays and a task on them, as a person writes them in an experiment file: on to padded batches."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax import Labels, Source, Task
from transformer_jax.data.columns import Column
from transformer_jax.data.pipeline import batches
from transformer_jax.data.plan import BatchPlan
from transformer_jax.data.table import encode_table

SIZES = np.random.default_rng(0).integers(1, 40, 150).tolist()
LABELS = Labels().train(["0", "1", "2"])


@dataclass(frozen=True)
class Gestures(Source):
    """Where a hand was at each moment, and which of three gestures that was."""

    def examples(self, split):
        for number, size in enumerate(SIZES):
            frames = np.random.default_rng(number).normal(size=(size, 3)).astype(np.float32)
            yield {"frames": frames, "label": number % 3}


@dataclass(frozen=True)
class Recognition(Task):
    """Learns the gesture."""

    features: ClassVar[tuple[str, ...]] = ("frames", "label")

    @property
    def kinds(self):
        return {"frames": "array", "label": "label"}

    @property
    def columns(self):
        return {"frames": Column("float32", (3,)), "label": Column(varying=False)}

    def encode(self, tokenizers, examples, *, max_length):
        labels = [tokenizers["label"].id(example["label"]) for example in examples]
        return {"frames": [example["frames"] for example in examples], "label": labels}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    task = Recognition()
    return encode_table(
        task.readable(Gestures().examples("train")),
        lambda examples: task.encode({"label": LABELS}, examples, max_length=32),
        task.columns,
        max_length=32,
        path=tmp_path_factory.mktemp("cache") / "train.arrow",
        skipped=Counter(),
    )


def test_frames_and_labels_go_through_to_padded_batches(table):
    kept = [number for number, size in enumerate(SIZES) if size <= 32]
    assert table.report("train").startswith(f"train: {len(kept):,} examples, {sum(SIZES[i] for i in kept):,} frames")
    plan = BatchPlan(table.lengths, tokens_per_batch=256, num_buckets=3, batch_multiple=4, seed=0)
    task, seen = Recognition(), []
    for batch in batches(table, plan, stop=plan.batches_per_epoch):
        abstract = task.abstract_batch(*batch["frames"].shape[:2])
        assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
            name: (array.shape, array.dtype) for name, array in abstract.items()
        }
        assert batch["frames"].dtype == np.float32 and batch["label"].dtype == np.int32
        for row, example in enumerate(batch["example"].tolist()):
            length, expected = batch["frames_length"][row], np.zeros((0, 3))
            if example >= 0:
                seen.append(example)
                expected = np.random.default_rng(kept[example]).normal(size=(SIZES[kept[example]], 3))
                assert batch["label"][row] == kept[example] % 3
            np.testing.assert_array_equal(batch["frames"][row, :length], expected.astype(np.float32))
            assert not batch["frames"][row, length:].any()
        assert int(task.num_tokens(batch)) == batch["frames_length"].sum()
    assert sorted(seen) == list(range(len(kept)))


def test_images_that_are_all_alike_are_counted_as_so_many_tokens():
    class Pictures(Task):
        @property
        def columns(self):
            image = Column("float32", (4, 4, 1), varying=False, tokens=16)
            return {"image": image, "label": Column(varying=False)}

    batch = Pictures().abstract_batch(6, 0)
    assert {name: array.shape for name, array in batch.items()} == {
        "image": (6, 4, 4, 1),
        "label": (6,),
        "example": (6,),
    }
    assert int(Pictures().num_tokens({"example": jnp.asarray([3, 0, -1])})) == 32
    plan = BatchPlan(np.full((100, 2), [16, 1]), tokens_per_batch=256, num_buckets=3, batch_multiple=4, seed=0)
    assert [shape.rows for shape in plan.shapes] == [16]
    assert all(isinstance(array, jax.ShapeDtypeStruct) for array in batch.values())


def test_a_task_says_what_it_needs():
    with pytest.raises(ValueError, match="column 'frames' of example 1 is the text 'a'; Recognition needs an array"):
        list(Recognition().readable([{"frames": "a", "label": 1}]))
