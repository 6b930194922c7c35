"""An ensemble: several models that decode together, by the mean of their probabilities."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class EnsembleCache(NamedTuple):
    """The cache of every member."""

    members: tuple[Any, ...]

    def take(self, rows: Int[Array, " rows"]) -> "EnsembleCache":
        """The cache whose row i is this one's row `rows[i]`."""
        return EnsembleCache(tuple(member.take(rows) for member in self.members))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["members"], meta_fields=[])
@dataclass(frozen=True)
class Ensemble:
    """Encoder-decoder models of one vocabulary as one that has the mean of their probabilities, token by token.

    It is called, searched and evaluated as a single model; its logits are logarithms of probabilities.
    """

    members: tuple[Any, ...]

    @property
    def embedding(self) -> Any:
        """That of the first member, which knows the vocabulary."""
        return self.members[0].embedding

    def __call__(self, *arguments: Any, **settings: Any) -> Float[Array, "batch length vocab"]:
        """Logits of the token that follows each target token."""
        return self._mean([member(*arguments, **settings) for member in self.members])

    def predict(self, target: Int[Array, "batch length"], memories: Any, **settings: Any) -> Float[Array, "..."]:
        """The logits of a call, given the memories of all members."""
        pairs = zip(self.members, memories, strict=True)
        return self._mean([member.predict(target, memory, **settings) for member, memory in pairs])

    def encode(self, *arguments: Any, **settings: Any) -> Any:
        """The memories of all members, a tuple."""
        return tuple(member.encode(*arguments, **settings) for member in self.members)

    def start_cache(self, memories: Any, capacity: int) -> EnsembleCache:
        """A cache for `capacity` target tokens of every row."""
        pairs = zip(self.members, memories, strict=True)
        return EnsembleCache(tuple(member.start_cache(memory, capacity) for member, memory in pairs))

    def extend(
        self, tokens: Int[Array, "batch length"], cache: EnsembleCache
    ) -> tuple[Float[Array, "batch length vocab"], EnsembleCache]:
        """Appends `length` tokens to every row; returns the logits of the token that follows each of them."""
        results = [member.extend(tokens, of) for member, of in zip(self.members, cache.members, strict=True)]
        return self._mean([logits for logits, _ in results]), EnsembleCache(tuple(after for _, after in results))

    def _mean(self, logits: Sequence[Array]) -> Array:
        # Members may pad the vocabulary by different numbers of rows.
        size = self.embedding.vocab_size
        log_probs = (jax.nn.log_softmax(one[..., :size].astype(jnp.float32)) for one in logits)
        return functools.reduce(jnp.logaddexp, log_probs) - math.log(len(self.members))
