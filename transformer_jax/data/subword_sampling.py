"""Other tokens of the same texts, drawn anew in every epoch: BPE dropout (Provilkov et al. 2020) and sampling among the
best cuts of a unigram model (Kudo 2018, section 3.2).

SentencePiece has both, but no seed that gives the same in every process; a resumed run has to draw what it would have.
"""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
import sentencepiece
from jaxtyping import Int32

from transformer_jax.data.pipeline import Batch
from transformer_jax.data.tokenizers import WORD_BEGIN, SentencePieceTokenizer, Tokenizer

RowLengths = Int32[np.ndarray, "rows columns"]
DRAWS = 4
"""Draws for a text, of which the first that is short enough is taken."""
SHORT = 24
"""Symbols of a word whose merges are remembered: texts without spaces are words that do not come again."""
BEST = 64
"""Cuts of a text that a unigram model draws from."""


def resample(
    batch: Batch, column: str, tokenizer: Tokenizer, *, around: tuple[int, int], alpha: float, seed: int, epoch: int
) -> Batch:
    """The batch with other tokens in a column, a function of seed, epoch and example.

    `around` counts the tokens before and after those of a text, which stay. A text for which no draw fits into the
    array stays as it is. Raises ValueError for a vocabulary that has one way to cut a text.
    """
    tokens, lengths = batch[column].copy(), batch[f"{column}_length"].copy()
    before, after = around
    for row, example in enumerate(batch["example"].tolist()):
        if example >= 0:
            end = int(lengths[row]) - after
            ids, key = tokens[row, before:end].tolist(), [seed, epoch, example, column]
            drawn = draw(tokenizer, ids, alpha, key, longest=tokens.shape[1] - before - after)
            whole = [*tokens[row, :before], *drawn, *tokens[row, end : end + after]]
            tokens[row], lengths[row] = 0, len(whole)
            tokens[row, : len(whole)] = whole
    return batch | {column: tokens, f"{column}_length": lengths}


def resample_all(
    batch: Batch, columns: Mapping[str, tuple[int, int]], tokenizers: Mapping[str, Any], **settings: Any
) -> Batch:
    """The same for several columns, with the tokens around their texts."""
    for column, around in columns.items():
        batch = resample(batch, column, tokenizers[column], around=around, **settings)
    return batch


def draw(tokenizer: Tokenizer, ids: list[int], alpha: float, key: Sequence[int | str], *, longest: int) -> list[int]:
    """Tokens of the same text, at most `longest`, that depend on `key` alone; the same ids if there are none.

    With `alpha` a merge is dropped (bpe), or the probability of a cut to the power of it is that of being drawn
    (unigram).
    """
    cut = _cutter(tokenizer)
    for attempt in range(DRAWS):
        hashed = hashlib.blake2b(json.dumps([*key, attempt]).encode(), digest_size=8).digest()
        drawn = cut(ids, alpha, Random(int.from_bytes(hashed, "little")))
        if len(drawn) <= longest:
            return drawn
    return ids


def roomy(lengths: RowLengths, room: Sequence[float], max_length: int) -> RowLengths:
    """Lengths for a plan of batches whose columns have so many times the room, for more tokens of the same texts."""
    longer = np.minimum(np.ceil(lengths * np.asarray(room)), max_length).astype(np.int32)
    return np.maximum(longer, lengths)


Cut = Callable[[list[int], float, Random], list[int]]


@lru_cache(maxsize=8)
def _cutter(tokenizer: Tokenizer) -> Cut:
    """The function that cuts texts anew; ValueError for a vocabulary that has one way to cut a text."""
    if isinstance(tokenizer, SentencePieceTokenizer):
        processor: Any = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(tokenizer.content)
        for offered, cut in ((_offers_best, _unigram), (_offers_dropout, _bpe)):
            if offered(processor):
                return cut(processor)
    raise ValueError("data.subword_sampling needs a SentencePiece vocabulary of the type bpe or unigram")


def _offers_best(processor: Any) -> bool:
    try:
        return bool(processor.nbest_encode("a", nbest_size=2))
    except RuntimeError:  # of another type
        return False


def _offers_dropout(processor: Any) -> bool:
    try:
        return bool(processor.encode("a", enable_sampling=True, alpha=0.1, nbest_size=-1))
    except RuntimeError:
        return False


def _unigram(processor: Any) -> Cut:
    scores = [processor.get_score(token_id) for token_id in range(processor.vocab_size())]

    def cut(ids: list[int], alpha: float, random: Random) -> list[int]:
        best = processor.nbest_encode(processor.decode(ids), nbest_size=BEST)
        if not best or best[0] != ids:  # such as a text with unknown characters, which are lost in it
            return ids
        totals = [alpha * sum(scores[token_id] for token_id in one) for one in best]
        highest = max(totals)
        return random.choices(best, [math.exp(total - highest) for total in totals])[0]

    return cut


class _Dropout:
    """Which merges are kept, one after another, when each is dropped with probability `alpha`."""

    def __init__(self, alpha: float, random: Random):
        self._alpha, self._random = alpha, random
        self._kept = self._draw()

    def keeps_all(self, number: int) -> bool:
        """Whether the next merges, so many, are all kept; if not, none of them has been decided on."""
        if number > self._kept:
            return False
        self._kept -= number
        return True

    def keeps(self) -> bool:
        """Whether the next merge is kept."""
        keeps = self._kept > 0
        self._kept = self._kept - 1 if keeps else self._draw()
        return keeps

    def _draw(self) -> int:
        """How many are kept before one is dropped: a geometric distribution."""
        return int(math.log(1 - self._random.random()) / math.log1p(-self._alpha)) if self._alpha else sys.maxsize


def _bpe(processor: Any) -> Cut:
    unsplit = ("is_control", "is_unknown", "is_unused", "is_byte")
    pieces = [processor.id_to_piece(token_id) for token_id in range(processor.vocab_size())]
    ids_of = {
        piece: token_id
        for token_id, piece in enumerate(pieces)
        if not any(getattr(processor, name)(token_id) for name in unsplit)
    }
    scores = {piece: processor.get_score(token_id) for piece, token_id in ids_of.items()}
    merged = [len(piece) - 1 for piece in pieces]  # merges that make each
    splits = [piece in ids_of and all(letter in ids_of for letter in piece) for piece in pieces]

    def merges(symbols: tuple[str, ...]) -> list[int]:
        """The places of symbols that may be merged with the next one, the best one first."""
        places = [i for i in range(len(symbols) - 1) if symbols[i] + symbols[i + 1] in scores]
        return sorted(places, key=lambda i: -scores[symbols[i] + symbols[i + 1]])

    known_merges = lru_cache(maxsize=100_000)(merges)

    def words(ids: list[int]) -> Iterator[list[int]]:
        word: list[int] = []
        for token_id in ids:
            if word and pieces[token_id].startswith(WORD_BEGIN):
                yield word
                word = []
            word.append(token_id)
        yield word

    def cut(ids: list[int], alpha: float, random: Random) -> list[int]:
        drawn, dropout = list[int](), _Dropout(alpha, random)
        for word in words(ids):
            number = sum(merged[token_id] for token_id in word)
            if not all(splits[token_id] for token_id in word) or dropout.keeps_all(number):
                drawn += word
                continue
            symbols = tuple("".join(pieces[token_id] for token_id in word))
            while True:
                for place in known_merges(symbols) if len(symbols) <= SHORT else merges(symbols):
                    if dropout.keeps():
                        symbols = (*symbols[:place], symbols[place] + symbols[place + 1], *symbols[place + 2 :])
                        break
                else:
                    break
            drawn += [ids_of[symbol] for symbol in symbols]
        return drawn

    return cut
