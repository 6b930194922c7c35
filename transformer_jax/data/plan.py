"""Plans of batches: examples of similar length, by a budget of tokens, in few shapes."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Shape(NamedTuple):
    """The shape of a bucket's batches."""

    rows: int
    lengths: tuple[int, ...]
    """Lengths of the features' arrays."""


class BatchPlan:
    """The batches of every epoch, a pure function of (seed, epoch, lengths), for all processes together.

    Examples are sorted into buckets by their longest feature. All batches of a bucket have one shape, of at most
    `tokens_per_batch` tokens in the longest feature; the boundaries of the buckets give the fewest padded tokens. Every
    epoch has each example once; the last batch of a bucket is filled up with empty rows (index -1).
    Without `shuffle` the batches go from short to long examples, and keep their order within a bucket.
    Raises ValueError when not even `batch_multiple` rows of the longest examples fit.
    """

    def __init__(
        self,
        lengths: Int[np.ndarray, "examples features"],
        *,
        tokens_per_batch: int,
        num_buckets: int,
        batch_multiple: int,
        seed: int,
        shuffle: bool = True,
    ):
        self.seed, self.shuffle = seed, shuffle
        # Where every example is one item, such as a picture, batches are counted in these.
        sizes = _round_up(lengths.max(axis=1)) if lengths.max() > 1 else lengths.max(axis=1)
        most_rows(int(sizes.max()), tokens_per_batch, batch_multiple)
        classes, members = np.unique(sizes, return_inverse=True)
        longest = np.zeros((len(classes), lengths.shape[1]), np.int64)
        np.maximum.at(longest, members, lengths)
        # The shape of a bucket from class `start` up to, not including, class `end`, for all [start, end] at once.
        shapes = _longest_between(longest)
        shapes = _round_up(shapes) if lengths.max() > 1 else shapes
        rows = tokens_per_batch // np.maximum(shapes.max(axis=-1), 1) // batch_multiple * batch_multiple
        below = np.concatenate([[0], np.cumsum(np.bincount(members))])
        batches = -(-(below[None, :] - below[:, None]) // rows)
        padded = (batches * rows * shapes.sum(axis=-1)).astype(float)
        padded[np.tril_indices(len(below), -1)] = np.inf
        ends = best_cuts(padded, num_buckets)
        starts = [0, *ends[:-1]]

        self.shapes = [Shape(int(rows[span]), tuple(shapes[span].tolist())) for span in zip(starts, ends, strict=True)]
        buckets = np.searchsorted(ends, members, side="right")
        self._examples = [np.flatnonzero(buckets == bucket) for bucket in range(len(ends))]
        self.batches_per_epoch: int = int(batches[starts, ends].sum())
        self.padding_efficiency: float = float(lengths.sum(dtype=np.int64) / padded[starts, ends].sum())
        """Real tokens among all tokens of an epoch's arrays."""
        # Two epochs, as the threads that work ahead may be in the next one.
        self._epoch = lru_cache(maxsize=2)(self._deal)

    def batch(self, position: int) -> tuple[int, Int[np.ndarray, " rows"]]:
        """The bucket (its shape is `shapes[bucket]`) and the examples of a batch; positions count over all epochs."""
        epoch, place = divmod(position, self.batches_per_epoch)
        return self._epoch(epoch)[place]

    def _deal(self, epoch: int) -> list[tuple[int, np.ndarray]]:
        random = np.random.Philox(key=[self.seed, epoch])
        batches = []
        for bucket, (examples, shape) in enumerate(zip(self._examples, self.shapes, strict=True)):
            order = self._order(random, len(examples))
            filled = np.pad(examples[order], (0, -len(examples) % shape.rows), constant_values=-1)
            batches += [(bucket, rows) for rows in filled.reshape(-1, shape.rows)]
        return [batches[place] for place in self._order(random, len(batches))]

    def _order(self, random: np.random.Philox, count: int) -> np.ndarray:
        # NumPy promises the bits of Philox for all its versions, which it does not of its permutations.
        return random.random_raw(count).argsort(kind="stable") if self.shuffle else np.arange(count)


def best_cuts(cost: Float[np.ndarray, "points points"], num_pieces: int) -> list[int]:
    """The ends of at most `num_pieces` pieces from point 0 to the last whose summed `cost[start, end]` is least.

    By dynamic programming. `cost[i, i]` is 0: a piece may be empty.
    """
    total, choices = cost[0], []
    for _ in range(min(num_pieces, len(cost) - 1) - 1):
        through = total[:, None] + cost
        choices.append(through.argmin(axis=0))
        total = through.min(axis=0)
    ends = [len(cost) - 1]
    for choice in reversed(choices):
        ends.append(int(choice[ends[-1]]))
    return sorted(set(ends) - {0})


def _round_up(lengths: np.ndarray) -> np.ndarray:
    """Lengths as multiples of 8, and up to 32 of 4, since short arrays would be mostly padding."""
    multiple = np.where(lengths <= 32, 4, 8)
    return -(-lengths // multiple) * multiple


def _longest_between(longest: np.ndarray) -> np.ndarray:
    """The largest length of every feature in classes `start` to `end - 1`, `[start, end, features]`."""
    points = len(longest) + 1
    spans = np.zeros((points, points, longest.shape[1]), np.int64)
    spans[:, 1:] = longest * np.triu(np.ones((points, points - 1), bool))[..., None]
    return np.maximum.accumulate(spans, axis=1)


def most_rows(length: int, tokens_per_batch: int, batch_multiple: int) -> int:
    """The rows of batches of this length; ValueError when not even `batch_multiple` fit."""
    if rows := tokens_per_batch // length // batch_multiple * batch_multiple:
        return rows
    raise ValueError(
        f"{batch_multiple} rows (data.batch_multiple) of {length} tokens are more than data.tokens_per_batch "
        f"{tokens_per_batch}; set it to {length * batch_multiple} or lower data.max_length"
    )
