"""Packing: documents end to end, cut into rows of one length without padding."""

from functools import lru_cache

import numpy as np
from jaxtyping import Int

from transformer_jax.data.plan import Shape, most_rows

Places = Int[np.ndarray, "rows length"]
Lengths = Int[np.ndarray, " documents"]


class PackedPlan:
    """The rows of every epoch, a pure function of (seed, epoch, lengths), for all processes together.

    An epoch lays all documents end to end, in an order of its own, and cuts that into rows of `length + 1` tokens that
    begin with the last token of another: there are `length` inputs and `length` tokens to predict. Where the first cut
    is, and which rows make a batch, differ between epochs. Tokens that do not fill a batch are left out, others each
    time; a corpus of less than a batch is repeated to fill it. Raises ValueError when not even `batch_multiple` rows
    fit.
    """

    def __init__(self, lengths: Lengths, *, length: int, tokens_per_batch: int, batch_multiple: int, seed: int):
        rows = most_rows(length, tokens_per_batch, batch_multiple)
        self.seed = seed
        self.length = length
        self.shapes = [Shape(rows, (length + 1,))]
        self._lengths = lengths.astype(np.int64)
        self._total = int(self._lengths.sum())
        self.batches_per_epoch = max(self._total // length // rows, 1)
        # Two epochs, as the threads that work ahead may be in the next one.
        self._epoch = lru_cache(maxsize=2)(self._deal)

    def batch(self, position: int) -> tuple[Places, Places]:
        """The document of every token of a batch, and the token's place in it; positions count over all epochs."""
        epoch, place = divmod(position, self.batches_per_epoch)
        order, ends, starts = self._epoch(epoch)
        stream = (starts[place][:, None] + np.arange(self.length + 1)) % self._total
        index = np.searchsorted(ends, stream, side="right")
        documents = order[index]
        return documents, stream - (ends[index] - self._lengths[documents])

    def _deal(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The documents in order, their ends in the stream, and the starts of the rows `[batches, rows]`."""
        # NumPy promises the bits of Philox for all its versions, which it does not of its permutations.
        random = np.random.Philox(key=[self.seed, epoch])
        order = random.random_raw(len(self._lengths)).argsort(kind="stable")
        first = int(random.random_raw() % np.uint64(self.length))
        (rows, _), batches = self.shapes[0], self.batches_per_epoch
        shuffled = random.random_raw(batches * rows).argsort(kind="stable")
        starts = (first + shuffled * self.length).reshape(batches, rows)
        return order, np.cumsum(self._lengths[order]), starts


class EveryToken(PackedPlan):
    """The rows for evaluation: every token but a document's first is predicted once, in order.

    Rows of `length + 1` tokens hold whole documents; a longer document is cut into windows of that size, each of which
    begins with the last token of the one before. The rest of a row is filled with the first token of document 0, again
    and again, each a piece of its own in which nothing is predicted.
    """

    def __init__(self, lengths: Lengths, *, length: int, tokens_per_batch: int, batch_multiple: int):
        rows: list[list[np.ndarray]] = [[]]
        free = length + 1
        for document, size in enumerate(lengths.tolist()):
            for start in range(0, max(size - 1, 1), length):
                places = np.arange(start, min(start + length + 1, size))
                if len(places) > free:
                    rows.append([])
                    free = length + 1
                rows[-1].append(np.stack([np.full_like(places, document), places]))
                free -= len(places)
        most = most_rows(length, tokens_per_batch, batch_multiple)
        per_batch = min(most, -(-len(rows) // batch_multiple) * batch_multiple)
        self.length = length
        self.shapes = [Shape(per_batch, (length + 1,))]
        self.batches_per_epoch = -(-len(rows) // per_batch)
        self._documents, self._places = np.zeros((2, self.batches_per_epoch * per_batch, length + 1), np.int64)
        for row, pieces in enumerate(rows):
            whole = np.concatenate(pieces, axis=1)
            self._documents[row, : whole.shape[1]], self._places[row, : whole.shape[1]] = whole

    def batch(self, position: int) -> tuple[Places, Places]:
        rows = self.shapes[0].rows
        part = slice(position * rows, (position + 1) * rows)
        return self._documents[part], self._places[part]


def segments(places: Places) -> tuple[Places, Places]:
    """The number of every token's piece of a document in its row, from 1, and its position in the piece, from 0."""
    columns = np.arange(places.shape[1])[None]
    begins = (places == 0) | (columns == 0)
    begins[:, 1:] |= places[:, 1:] != places[:, :-1] + 1
    starts = np.maximum.accumulate(np.where(begins, columns, 0), axis=1)
    return np.cumsum(begins, axis=1), columns - starts
