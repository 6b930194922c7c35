"""A trained masked language model as people use it: a text with masks in, likely words out."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from transformer_jax.data.masking import Masked
from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.models.encoder_only import EncoderOnly
from transformer_jax.parallel.axes import constrain
from transformer_jax.tasks.encoder import embeddings
from transformer_jax.tasks.losses import cross_entropy
from transformer_jax.tasks.rows import TOKENS_PER_BATCH, grouped, listed, padded


class MaskFiller:
    """Fills masks and embeds texts. Unpacks into its parts: `model, tokenizer = filler`."""

    def __init__(self, model: EncoderOnly, tokenizer: Tokenizer, *, max_length: int):
        if tokenizer.mask_id is None:
            raise ValueError("the vocabulary has no mask token; set data.tokenizer.mask, or use WordPiece")
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.mask = tokenizer.piece(tokenizer.mask_id)
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
        logits = self.model(jnp.asarray([ids]))[0, jnp.asarray(places), : self.tokenizer.vocab_size]
        best, tokens = jax.lax.top_k(jax.nn.softmax(logits, axis=-1), min(count, logits.shape[-1]))
        return [
            [
                (self.tokenizer.decode([token]).strip() or self.tokenizer.piece(token), value)
                for token, value in zip(*row, strict=True)
            ]
            for row in zip(tokens.tolist(), best.tolist(), strict=True)
        ]

    def fill(self, texts: Sequence[str]) -> list[str]:
        """Every text with the most probable token at each of its masks."""
        found = []
        for text in listed(texts):
            for ((best, _),) in self.candidates(text, 1) if self.mask in text else []:
                text = text.replace(self.mask, best, 1)
            found.append(text)
        return found

    predict = fill

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector for every text: the mean of its tokens' vectors behind the last layer."""
        return embeddings(self.model, self._encoded(texts))

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
            sums += np.asarray(_sums(self.model, masked.tokens, tokens, lengths, masked.chosen))
        return float(sums[0]), int(sums[1]), int(sums[2])

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        tokenizer, encoded = self.tokenizer, []
        for line, text in enumerate(listed(texts), 1):
            ids = [tokenizer.bos_id]
            for number, part in enumerate(text.split(self.mask)):
                ids += [tokenizer.mask_id] * (number > 0) + (tokenizer.encode(part) if part.strip() else [])
            ids.append(tokenizer.eos_id)
            if len(ids) > self.max_length:
                raise ValueError(f"line {line} has {len(ids)} tokens, more than the {self.max_length} of the model")
            encoded.append(ids)
        return encoded


@jax.jit
def _sums(model: EncoderOnly, tokens: Array, labels: Array, lengths: Array, chosen: Array) -> Array:
    logits = model(constrain(tokens, ("batch", "length")), lengths=lengths)
    _, losses = cross_entropy(logits, labels, vocab_size=model.embedding.vocab_size)
    right = (jnp.argmax(logits, axis=-1) == labels) & chosen
    return jnp.stack([jnp.sum(jnp.where(chosen, losses, 0)), jnp.sum(right), jnp.sum(chosen)])
