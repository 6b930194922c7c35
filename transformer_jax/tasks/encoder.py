"""What the tasks and predictors of encoder-only models share."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from transformer_jax.data.tokenizers import Tokenizer
from transformer_jax.models.encoder_only import EncoderOnly
from transformer_jax.models.heads import mean_vector
from transformer_jax.parallel.axes import constrain
from transformer_jax.tasks.rows import for_each


def embeddings(model: EncoderOnly, encoded: list[list[int]]) -> list[list[float]]:
    """The mean of each text's vectors behind the last layer, special tokens included."""
    return [vector.tolist() for vector in for_each(partial(_means, model), encoded)]


def joined(tokenizer: Tokenizer, texts: Sequence[Sequence[str]], max_length: int) -> list[tuple[list[int], int]]:
    """A start token, then each part of a text and an end token; and where the second part begins.

    What is longer than `max_length` loses tokens at the end of its longest part.
    """
    parts = iter(tokenizer.encode_batch([part for text in texts for part in text]))
    found = []
    for text in texts:
        ids = [next(parts) for _ in text]
        for _ in range(min(sum(map(len, ids)), sum(map(len, ids)) + len(ids) + 1 - max_length)):
            max(ids, key=len).pop()
        tokens = [tokenizer.bos_id, *(token for part in ids for token in [*part, tokenizer.eos_id])]
        found.append((tokens, len(ids[0]) + 2))
    return found


def second(tokens: Int[Array, "batch length"], first: Int[Array, " batch"]) -> Int[Array, "batch length"]:
    """1 where the second part of a text stands, `first` being the length of the first (token types of BERT)."""
    return (jnp.arange(tokens.shape[1])[None] >= first[:, None]).astype(jnp.int32)


@jax.jit
def _means(model: EncoderOnly, tokens: Array, lengths: Array) -> Array:
    return mean_vector(model.encode(constrain(tokens, ("batch", "length")), lengths=lengths), lengths)
