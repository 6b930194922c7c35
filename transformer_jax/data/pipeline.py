"""Batches as arrays, made ahead of the device."""

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from transformer_jax.data.dataset import TokenizedSplit
from transformer_jax.data.plan import BatchPlan

Batch = dict[str, np.ndarray]
"""All int32: every feature's ids `[rows, length]`, padded with 0, and `<feature>_length` `[rows]`; `example` `[rows]`.

`example` is the index in the split, -1 for an empty row.
"""


def batches(
    split: TokenizedSplit,
    plan: BatchPlan,
    start: int = 0,
    *,
    stop: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """The batches from position `start` to `stop` (or for ever), or one process's share of the rows of each.

    Raises ValueError when the processes cannot share the rows evenly.
    """
    for shape in plan.shapes:
        if shape.rows % process_count:
            raise ValueError(
                f"batches of {shape.rows} rows cannot be shared by {process_count} processes; "
                f"set data.batch_multiple to a multiple of {process_count}"
            )

    grain = _grain()

    def make(position: int) -> Batch:
        bucket, examples = plan.batch(position)
        share = len(examples) // process_count
        mine = examples[process_index * share : (process_index + 1) * share]
        batch: Batch = {"example": mine.astype(np.int32)}
        for feature, length in zip(split.features, plan.shapes[bucket].lengths, strict=True):
            batch[feature], batch[f"{feature}_length"] = split.padded(feature, mine, length)
        return batch

    positions = grain.MapDataset.range(start, sys.maxsize if stop is None else stop).map(make)
    return iter(positions.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)))


def _grain() -> Any:
    """Grain, imported late because that takes a second, without its warning that an older JAX lacks a profiler."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        import grain
    finally:
        logging.set_verbosity(verbosity)
    return grain
