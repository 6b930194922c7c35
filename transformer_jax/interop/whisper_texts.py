"""What Whisper's tokens say of tasks and times (Radford et al. 2022, section 2.3): prompts, constraints, segments.

The constraints are those of `decoding/constraints.py`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

START, NO_TIMES = "<|startoftranscript|>", "<|notimestamps|>"
"""Tokens; the one in front of the second says that nobody speaks, those behind it are times."""
TASKS = ("transcribe", "translate")
PER_TIME = 2
"""Frames of 10 ms from one time to the next."""
Tokens = Int[Array, " rows"]
Logits = Float[Array, "rows vocab"]
Flags = Bool[Array, " rows"]


@dataclass(frozen=True)
class NotFirst:
    """Tokens with which no text begins, such as a space or the end."""

    tokens: tuple[int, ...]

    def start(self, prompt: Int[Array, "rows length"], lengths: Tokens, capacity: int, written: Any = 0) -> Flags:
        return jnp.ones(len(lengths), bool)

    def allow(self, logits: Logits, state: Flags) -> Logits:
        ids = jnp.array(self.tokens, jnp.int32)
        return logits.at[:, ids].set(jnp.where(state[:, None], -jnp.inf, logits[:, ids]))

    def advance(self, state: Flags, tokens: Tokens) -> Flags:
        return jnp.zeros_like(state)


@dataclass(frozen=True)
class Timestamps:
    """Texts in segments, each between two tokens of times, the first and last tokens of the vocabulary from `begin` on.

    A text begins with a time, times never go back, and only the end may follow one that ends a segment, or another
    time. Where all times together are more probable than any other token, one of them follows.
    """

    begin: int
    end_id: int
    """The end token, behind those of words and in front of all others."""
    latest: int
    """The latest first time."""

    def start(
        self, prompt: Int[Array, "rows length"], lengths: Tokens, capacity: int, written: Any = 0
    ) -> tuple[Flags, Flags, Tokens]:
        """Whether the last token is a time, and the one before; the last time, -1 at the beginning."""
        none = jnp.zeros(len(lengths), bool)
        return none, none, jnp.full(len(lengths), -1)

    def allow(self, logits: Logits, state: tuple[Flags, Flags, Tokens]) -> Logits:
        last, before, time = (each[:, None] for each in state)
        ids = jnp.arange(logits.shape[1])[None]
        times, first, ends = ids >= self.begin, time < 0, last & ~before
        least = self.begin + time + jnp.where(ends, 0, 1)
        no_time = jnp.where(first, ids > self.begin + self.latest, (last & before) | (ids < least))
        no_word = first | (ends & (ids < self.end_id))
        logits = jnp.where(jnp.where(times, no_time, no_word), -jnp.inf, logits)
        together = jax.nn.logsumexp(jnp.where(times, logits, -jnp.inf), axis=1, keepdims=True)
        best = jnp.max(jnp.where(times, -jnp.inf, logits), axis=1, keepdims=True)
        return jnp.where((together > best) & ~times, -jnp.inf, logits)

    def advance(self, state: tuple[Flags, Flags, Tokens], tokens: Tokens) -> tuple[Flags, Flags, Tokens]:
        last, _, time = state
        is_time = tokens >= self.begin
        return is_time, last | (time < 0), jnp.where(is_time, tokens - self.begin, time)


def segments_of(tokens: list[int], begin: int, frames: int) -> tuple[list[tuple[int, int, list[int]]], int]:
    """The segments of a window's text, from and to which frames, and from which the next window is to begin.

    Times are tokens from `begin` on, and the window has so many `frames`. Where it ends within a segment, what is
    written of that is dropped, and the next window begins there.
    """
    if not tokens:
        return [], frames
    times = [token - begin for token in tokens]
    cuts = [i for i in range(1, len(tokens)) if times[i - 1] >= 0 and times[i] >= 0]
    if not cuts:
        last = max(times)
        return [(0, PER_TIME * last if last > 0 else frames, tokens)], frames
    finished = times[-1] >= 0 and cuts[-1] < len(tokens) - 1
    ends = [*cuts, len(tokens)] if finished else cuts
    parts = zip([0, *ends], ends, strict=False)
    segments = [(PER_TIME * max(times[a], 0), PER_TIME * times[b - 1], tokens[a:b]) for a, b in parts]
    return segments, frames if finished else max(PER_TIME * times[cuts[-1] - 1], 1)
