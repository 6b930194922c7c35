"""A trained masked language model as people use it: a text with masks in, likely words out."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from transformer_jax.data.masking import Masked, places_to_predict
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.models.encoder_only import EncoderOnly
from transformer_jax.parallel.axes import constrain
from transformer_jax.tasks.encoder import embeddings, joined, second
from transformer_jax.tasks.losses import label_sums
from transformer_jax.tasks.rows import TOKENS_PER_BATCH, array_width, for_each, grouped, listed, padded


class MaskFiller:
    """Fills masks, embeds texts and says whether one follows from another.

    Unpacks into its parts: `model, tokenizer = filler`.
    """

    def __init__(self, model: EncoderOnly, tokenizer: Tokenizer, *, max_length: int):
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.mask = tokenizer.piece(mask_of(tokenizer))
        """How a mask is written in a text, such as [MASK]."""

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.tokenizer))

    def candidates(self, text: str, count: int = 5) -> list[list[tuple[str, float]]]:
        """For every mask of the text, the `count` most probable tokens and their probabilities.

        Raises ValueError for a text without a mask and for one of more than `max_length` tokens.
        """
        ids = self._encoded([text])[0]
        places = [place for place, token in enumerate(ids) if token == self.tokenizer.mask_id]
        if not places:
            raise ValueError(f"the text has no {self.mask}: write it where a token is to be found")
        tokens, lengths = padded([ids], 1, array_width(len(ids)))
        best, found = _most_probable(self.model, min(count, self.tokenizer.vocab_size), tokens, lengths)
        return [
            [(self._written(token), value) for token, value in zip(*row, strict=True)]
            for row in zip(found[0, places].tolist(), best[0, places].tolist(), strict=True)
        ]

    def fill(self, texts: Sequence[str]) -> list[str]:
        """Every text with the most probable token at each of its masks."""
        encoded, filled = self._encoded(texts), []
        found = for_each(lambda *batch: _most_probable(self.model, 1, *batch)[1][:, :, 0], encoded)
        for text, ids, best in zip(texts, encoded, found, strict=True):
            for token in best[: len(ids)][np.array(ids) == self.tokenizer.mask_id].tolist():
                text = text.replace(self.mask, self._written(token), 1)
            filled.append(text)
        return filled

    predict = fill

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector for every text: the mean of its tokens' vectors behind the last layer."""
        return embeddings(self.model, self._encoded(texts))

    def follows(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """How probable it is that the second text of every pair follows from the first.

        Raises ValueError for a model that was not trained for `NextSentence`.
        """
        encoded = joined(self.tokenizer, [list(pair) for pair in pairs], self.max_length)
        tokens, first = [ids for ids, _ in encoded], [first for _, first in encoded]
        return [float(found) for found in for_each(partial(_follows, self.model), tokens, first)]

    def masked_losses(
        self, texts: Sequence[str], mask: Callable[[np.ndarray, np.ndarray, np.ndarray], Masked]
    ) -> tuple[float, int, int]:
        """Summed loss, right answers and number of the tokens that `mask(tokens, real, keys)` chooses.

        Texts of more than `max_length` tokens are cut into pieces.
        """
        tokenizer, rows, keys = self.tokenizer, [], []
        for owner, ids in enumerate(tokenizer.encode_batch(listed(texts))):
            tokens = [tokenizer.bos_id, *ids, tokenizer.eos_id]
            for start in range(0, len(tokens), self.max_length):
                rows.append(tokens[start : start + self.max_length])
                keys.append((owner, start))
        sums = np.zeros(3)
        for lines, width, count in grouped({i: len(row) for i, row in enumerate(rows)}, TOKENS_PER_BATCH):
            tokens, lengths = padded([rows[i] for i in lines], count, width)
            real = np.arange(width) < lengths[:, None]
            named = np.array([keys[i] for i in lines] + [(0, 0)] * (count - len(lines)))
            masked = mask(tokens, real, named)
            most = array_width(int(masked.chosen.sum(axis=1).max()))
            places, labels = places_to_predict(tokens, masked, most)
            sums += np.asarray(_sums(self.model, masked.tokens, labels, places, lengths))
        return float(sums[0]), int(sums[1]), int(sums[2])

    def fits(self, text: str) -> bool:
        """Whether the text, with its masks, is short enough."""
        return len(self._ids(text)) <= self.max_length

    def _written(self, token: int) -> str:
        return self.tokenizer.decode([token]).strip() or self.tokenizer.piece(token)

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = [self._ids(text) for text in listed(texts)]
        for line, ids in enumerate(encoded, 1):
            if len(ids) > self.max_length:
                raise ValueError(f"line {line} has {len(ids)} tokens, more than the {self.max_length} of the model")
        return encoded

    def _ids(self, text: str) -> list[int]:
        tokenizer = self.tokenizer
        ids = [tokenizer.bos_id]
        for number, part in enumerate(text.split(self.mask)):
            ids += [mask_of(tokenizer)] * (number > 0) + (tokenizer.encode(part) if part.strip() else [])
        return [*ids, tokenizer.eos_id]


def mask_of(tokenizer: Tokenizer) -> int:
    """The number of the mask; ValueError for a vocabulary that has none."""
    if tokenizer.mask_id is None:
        raise ValueError("the vocabulary has no mask token; set data.tokenizer.mask, or use WordPiece")
    return tokenizer.mask_id


@jax.jit
def _follows(model: EncoderOnly, tokens: Array, lengths: Array, first: Array) -> Array:
    tokens = constrain(tokens, ("batch", "length"))
    vectors = model.encode(tokens, lengths=lengths, token_types=second(tokens, first))
    return jax.nn.softmax(model.predict_next(vectors, lengths=lengths), axis=-1)[:, 1]


@partial(jax.jit, static_argnums=1)
def _most_probable(model: EncoderOnly, count: int, tokens: Array, lengths: Array) -> Any:
    """The probabilities and the numbers `[rows, length, count]` of the most probable tokens at every place."""
    logits = model(constrain(tokens, ("batch", "length")), lengths=lengths)[:, :, : model.embedding.vocab_size]
    return jax.lax.top_k(jax.nn.softmax(logits, axis=-1), count)


@jax.jit
def _sums(model: EncoderOnly, tokens: Array, labels: Array, places: Array, lengths: Array) -> Array:
    """The summed loss, right answers and number of the `labels` (-1: none) at these places of the tokens."""
    vectors = model.encode(constrain(tokens, ("batch", "length")), lengths=lengths)
    logits = model.predict(jnp.take_along_axis(vectors, places[:, :, None], axis=1))
    sums = label_sums(logits, labels, vocab_size=model.embedding.vocab_size)
    return jnp.stack([sums["loss"][0], sums["accuracy"][0], sums["loss"][1]])
