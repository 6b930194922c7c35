"""Masked language modelling with next-sentence prediction (Devlin et al. 2019, section 3.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.columns import Column, Columns
from transformer_jax.data.masking import mask_tokens, uniform
from transformer_jax.data.pipeline import Batch
from transformer_jax.data.sources import Example
from transformer_jax.models.encoder_only import EncoderOnly
from transformer_jax.tasks.losses import cross_entropy
from transformer_jax.tasks.masked_language_modelling import MaskedLanguageModelling, mask_settings
from transformer_jax.tasks.sequences import padded, token_types
from transformer_jax.tasks.task import Sums, Tokenizers

SPECIAL = 3
"""Tokens of a pair that are no text: its start and the ends of its parts."""


@dataclass(frozen=True)
class NextSentence(MaskedLanguageModelling):
    """Learns masked tokens of pairs, and whether the second part follows from the first.

    In every epoch a document is divided anew into two parts; in half of the pairs the second part is of another
    document instead, which is always the same one. Of documents longer than `data.max_length` the beginning is read.
    """

    packed: ClassVar[bool] = False
    head: ClassVar[str] = "pretraining"

    @property
    def columns(self) -> Columns:
        return {"tokens": Column(), "other": Column()}

    def encode(self, tokenizers: Tokenizers, examples: Sequence[Example], *, max_length: int) -> dict[str, list[Any]]:
        """Each document with room for the special tokens of a pair, and the same of another document."""
        tokenizer = tokenizers["text"]
        encoded = tokenizer.encode_batch([example["text"] for example in examples])
        rows = [[*ids[: max_length - SPECIAL], *[tokenizer.eos_id] * SPECIAL] for ids in encoded]
        # Whose neighbours in the text are likely to be of the same subject are far apart here.
        far = len(rows) // 2
        return {"tokens": rows, "other": rows[far:] + rows[:far]}

    def augment(self, batch: Batch, tokenizers: Tokenizers, *, seed: int, epoch: int) -> Batch:
        """The arrays of `to_predict` for pairs, the length of their first part and whether the second part follows."""
        tokenizer = tokenizers["text"]
        documents, others = (_texts(batch, name) for name in ("tokens", "other"))
        pairs, first, follows = [], [], []
        for document, other, example in zip(documents, others, batch["example"].tolist(), strict=True):
            one, two, real = _pair(document, other, seed, epoch, example)
            pairs.append([tokenizer.bos_id, *one, tokenizer.eos_id, *two, tokenizer.eos_id] if document else [])
            first.append(len(one) + 2)
            follows.append(real)
        tokens, lengths = padded(pairs, *batch["tokens"].shape)
        masked = mask_tokens(
            tokens,
            np.arange(tokens.shape[1]) < lengths[:, None],
            np.stack([batch["example"], np.zeros_like(lengths)], axis=1),
            seed=seed,
            epoch=epoch,
            rate=self.rate,
            **mask_settings(tokenizer, self.whole_words),
        )
        parts = {"first": np.array(first, np.int32), "follows": np.array(follows, np.int32)}
        return self.to_predict(tokens, masked) | {"tokens_length": lengths} | parts

    def loss(self, model: EncoderOnly, batch: Mapping[str, Array], key: PRNGKeyArray | None) -> Sums:
        """`loss`; `nll` and `accuracy` of the tokens to predict; `next_sentence`, the share of pairs told apart.

        The loss is the sum of two means, of the tokens to predict and of pairs, these weighted by their lengths.
        """
        tokens, lengths, follows = batch["tokens"], batch["tokens_length"], batch["follows"]
        types = token_types(tokens, batch["first"])
        encoded = model.encode(tokens, lengths=lengths, token_types=types, key=key)
        sums = self.masked_loss(model, encoded, batch)
        logits = model.predict_next(encoded)
        _, losses = cross_entropy(logits[:, None], follows[:, None], vocab_size=2)
        # As many as are masked in pairs of these lengths, whatever pairs are summed up together.
        weights = self.rate * lengths
        right = (jnp.argmax(logits, axis=-1) == follows) & (lengths > 0)
        total, count = sums["nll"] = sums["loss"]
        sums["loss"] = total + jnp.sum(losses[:, 0] * weights), count
        sums["next_sentence"] = jnp.sum(right.astype(jnp.float32)), jnp.sum((lengths > 0).astype(jnp.float32))
        return sums

    def metrics(self) -> dict[str, Literal["lower", "higher"]]:
        return {**super().metrics(), "next_sentence": "higher"}


def _texts(batch: Batch, column: str) -> list[list[int]]:
    """The token ids of a column, without the room that `encode` left behind them; none for an empty row."""
    ends = np.maximum(batch[f"{column}_length"] - SPECIAL, 0)
    return [row[:end].tolist() for row, end in zip(batch[column], ends, strict=True)]


def _pair(
    document: list[int], other: list[int], seed: int, epoch: int, example: int
) -> tuple[list[int], list[int], int]:
    """The two parts of a pair, together no longer than the document; and, as a number, whether they belong together.

    What is drawn depends on seed, epoch and example and nothing else.
    """
    # The last number of the counter tells these draws from those of masks.
    real, cut = uniform(seed, epoch, (example + 1, 0), 2).tolist()
    size = len(document)
    place = 1 + int(cut * (size - 1))
    if size > 1 and (real < 0.5 or other == document):
        return document[:place], document[place:], 1
    # Its end, as true second parts are ends: where a text stops must not tell them apart.
    return document[:place], other[-max(size - place, 1) :], 0
