"""Batches as arrays, prefetched for the device."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.masking import uniform
from transformer_jax.data.packing import PackedPlan, segments
from transformer_jax.data.plan import BatchPlan
from transformer_jax.data.table import Table

Batch = dict[str, np.ndarray]
"""Arrays with a row for each example or each row of packed text.

A plan gives every column as `Column` says, and `example` `[rows]`, the index in the table, -1 for an empty row. A
packed plan gives int32: `tokens`, `segments` (from 1) and `positions` (in a segment), `[rows, length + 1]`, and the
`example` `[rows]` of the first token with its `place` `[rows]` there.
"""
Plan = BatchPlan | PackedPlan
MOST_THREADS = 16
"""Threads that decode a batch each."""
MOST_DRAWS = 32
"""Random numbers of an example in an epoch."""
Augment = Callable[[Batch, int], Batch]
"""From a batch and the number of its epoch to the batch with its random choices."""


def batches(
    table: Table,
    plan: Plan,
    start: int = 0,
    *,
    stop: int | None = None,
    parts: Sequence[int] = (0,),
    num_parts: int = 1,
    augment: Augment = lambda batch, epoch: batch,
) -> Iterator[Batch]:
    """The batches from position `start` to `stop` (or for ever), or some of `num_parts` equal parts of their rows."""

    def own(rows: np.ndarray) -> np.ndarray:
        return np.concatenate([np.split(rows, num_parts)[part] for part in parts])

    def make(position: int) -> Batch:
        epoch = position // plan.batches_per_epoch
        if isinstance(plan, PackedPlan):
            documents, places = map(own, plan.batch(position))
            numbers, positions = segments(places)
            batch = {"tokens": table.tokens_at(documents, places), "segments": numbers, "positions": positions}
            batch |= {"example": documents[:, 0], "place": places[:, 0]}
            batch = {name: array.astype(np.int32) for name, array in batch.items()}
        else:
            bucket, examples = plan.batch(position)
            batch = {"example": own(examples).astype(np.int32)}
            draws = partial(_draws, plan.seed, epoch) if plan.shuffle else None
            batch |= table.batch(batch["example"], plan.shapes[bucket].lengths, draws)
        return augment(batch, epoch)

    grain = _grain()
    # What is decoded anew for every batch takes longer than a small model's step.
    threads = min(os.cpu_count() or 1, MOST_THREADS) if any(column.decode for column in table.columns.values()) else 1
    positions = grain.MapDataset.range(start, sys.maxsize if stop is None else stop).map(make)
    return iter(positions.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(8, threads))))


def _draws(seed: int, epoch: int, example: int) -> Iterator[float]:
    """The random numbers of an example in an epoch, on every machine the same."""
    return iter(uniform(seed, epoch, (example + 1, 0), MOST_DRAWS).tolist())


def empty_batch(columns: Columns, rows: int, length: int, *, packed: bool) -> Batch:
    """A batch of zeros, every column `length` long if it may be, of a plan or of a packed plan."""
    if packed:
        columns, length = dict.fromkeys(("tokens", "segments", "positions"), Column()), length + 1
    columns = {name: column for name, column in columns.items() if column.batched}
    batch = {name: column.zeros(rows, min(length, column.longest or length)) for name, column in columns.items()}
    lengths = ["place"] if packed else [f"{name}_length" for name, column in columns.items() if column.varying]
    return batch | {name: np.zeros(rows, np.int32) for name in ("example", *lengths)}


def _grain() -> Any:
    """Imports grain, which takes a second, without its warning that an older JAX lacks a profiler."""
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        import grain
    finally:
        logging.set_verbosity(verbosity)
    return grain
