"""Beam search with length normalisation (Wu et al. 2016, section 7; Vaswani et al. 2017, section 6.1).

With a beam of one hypothesis it is greedy search: the most probable token, again and again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from transformer_jax.nn.mask import MASKED

Cache = Any
"""The model's memory of the tokens so far: any pytree."""

Step = Callable[[Int[Array, "rows new"], Cache], tuple[Float[Array, "rows new vocab"], Cache]]
"""Appends `new` tokens to the cache and returns the logits of the token that follows each of them."""

Reorder = Callable[[Cache, Int[Array, " rows"]], Cache]
"""The cache whose row i is row rows[i] of the one given.

The first call repeats each sentence `beam_size` times. Every later call keeps the number of rows and moves
them within their sentence only, so what the hypotheses of a sentence share (cross-attention keys) may stay in place.
"""


class Finished(NamedTuple):
    """The best finished hypotheses of each sentence, best first; where there are fewer, the rest have score -inf."""

    scores: Float[Array, "batch beam"]
    """Log-probabilities over length penalties."""
    log_probs: Float[Array, "batch beam"]
    """Log-probabilities of the texts with their end tokens."""
    lengths: Int[Array, "batch beam"]
    """Generated tokens, the end token included; 0 for the rest."""
    slots: Int[Array, "batch beam"]
    """The alive hypothesis to which the end token was appended."""


class BeamState(NamedTuple):
    """A search in progress. A sentence is done when none of its hypotheses is alive."""

    cache: Cache
    """Keys and values of all tokens but the last, of batch * beam rows."""
    last: Int[Array, "batch beam"]
    """The last token of each hypothesis, which the model reads next."""
    alive: Float[Array, "batch beam"]
    """Log-probabilities of the hypotheses that have not ended; -inf in free slots."""
    finished: Finished
    """The hypotheses that have ended."""
    tokens: Int[Array, "capacity batch beam"]
    """The token with which each alive hypothesis was extended at each position."""
    parents: Int[Array, "capacity batch beam"]
    """The slot that the hypothesis had before. Following these back once spares moving all tokens at each step."""
    limits: Int[Array, " batch"]
    """The most tokens that a hypothesis may have, the end token included."""
    position: Int[Array, ""]
    """How many tokens the hypotheses that are alive have."""


class BeamResult(NamedTuple):
    """Finished hypotheses, best first. Where a sentence has fewer, the rest have score -inf, length 0 and tokens 0."""

    tokens: Int[Array, "batch beam capacity"]
    """Ending in the end token; 0 after it."""
    lengths: Int[Array, "batch beam"]
    """Tokens, the end token included."""
    scores: Float[Array, "batch beam"]
    """Log-probabilities over length penalties."""
    log_probs: Float[Array, "batch beam"]
    """Log-probabilities of the texts with their end tokens."""


def beam_search(
    step: Step,
    reorder: Reorder,
    cache: Cache,
    prompt: Int[Array, "batch prompt_length"],
    *,
    beam_size: int,
    end_id: int,
    max_new_tokens: Int[Array, " batch"],
    capacity: int,
    alpha: float = 0.6,
    forbidden: tuple[int, ...] = (),
) -> BeamResult:
    """The best continuations of `prompt`, each of which ends in `end_id` within its row's `max_new_tokens`.

    At every position the best `beam_size` extensions that do not end stay alive, and those that end count as finished
    if they are among the best `beam_size` of all. A sentence is done when `beam_size` hypotheses have finished, or at
    its limit, where only the end token is allowed. Of equal ones the lower slot, then the lower token wins. A row with
    `max_new_tokens` 0 has no hypothesis. `capacity` bounds the new tokens of all rows; the cache needs room for
    prompt_length + capacity - 1 tokens. Raises ValueError where the arguments leave nothing to search.
    """
    if prompt.shape[1] < 1:
        raise ValueError("the prompt is empty: begin it with one token at least, usually the bos token")
    if capacity < 1:
        raise ValueError(f"capacity is {capacity}: give room for one token at least")
    if end_id in forbidden:
        raise ValueError(f"forbidden holds the end token {end_id}, without which no text can end: take it out")
    if beam_size < 1:
        raise ValueError(f"beam_size is {beam_size}: keep one hypothesis at least")
    if prompt.shape[1] > 1:  # in one call, before the rows are repeated
        _, cache = step(prompt[:, :-1], cache)
    batch = prompt.shape[0]
    limits = jnp.minimum(max_new_tokens, capacity)
    # All hypotheses begin with the same text: only the first of them counts, or the beam would hold it beam_size times.
    first = (jnp.arange(beam_size) == 0)[None] & (limits > 0)[:, None]
    nothing = jnp.full((batch, beam_size), -jnp.inf, jnp.float32)
    none = jnp.zeros((batch, beam_size), jnp.int32)
    state = BeamState(
        cache=reorder(cache, jnp.repeat(jnp.arange(batch), beam_size)),
        last=jnp.repeat(prompt[:, -1:], beam_size, axis=1),
        alive=jnp.where(first, 0.0, nothing),
        finished=Finished(nothing, nothing, none, none),
        tokens=jnp.zeros((capacity, batch, beam_size), jnp.int32),
        parents=jnp.zeros((capacity, batch, beam_size), jnp.int32),
        limits=limits,
        position=jnp.zeros((), jnp.int32),
    )

    def unfinished(state: BeamState) -> Array:
        return (state.position < capacity) & (state.alive > -jnp.inf).any()

    def extended(state: BeamState) -> BeamState:
        return _extend(step, reorder, state, end_id, alpha, forbidden)

    return _result(jax.lax.while_loop(unfinished, extended, state), end_id)


def _result(state: BeamState, end_id: int) -> BeamResult:
    """The finished hypotheses, their tokens collected along their parents."""
    finished = state.finished

    def back(slots: Array, at: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        position, tokens, parents = at
        inside = position < finished.lengths - 1
        token = jnp.where(inside, jnp.take_along_axis(tokens, slots, axis=1), 0)
        token = jnp.where(position == finished.lengths - 1, end_id, token)
        return jnp.where(inside, jnp.take_along_axis(parents, slots, axis=1), slots), token

    columns = (jnp.arange(len(state.tokens)), state.tokens, state.parents)
    _, tokens = jax.lax.scan(back, finished.slots, columns, reverse=True)
    return BeamResult(jnp.moveaxis(tokens, 0, -1), finished.lengths, finished.scores, finished.log_probs)


def length_penalty(length: int | Int[Array, "*shape"], alpha: float) -> Float[Array, "*shape"]:
    """The divisor of log-probabilities: ((5 + length) / 6) ** alpha (Wu et al. 2016, equation 14)."""
    return ((5.0 + jnp.asarray(length)) / 6.0) ** alpha


def _extend(step: Step, reorder: Reorder, state: BeamState, end_id: int, alpha: float, forbidden: Any) -> BeamState:
    batch, beam = state.alive.shape
    logits, cache = step(state.last.reshape(-1, 1), state.cache)
    only_end = jnp.repeat(state.position + 1 >= state.limits, beam)
    # Each of the `beam` hypotheses can end in one way, so twice as many candidates leave `beam` that do not end.
    count = min(2 * beam, logits.shape[-1])
    alive = state.alive.reshape(-1)
    totals, words = continuations(logits[:, -1], alive, only_end, count, end_id, forbidden)
    log_probs, candidates = jax.lax.top_k(totals.reshape(batch, -1), min(2 * beam, beam * count))
    slots, tokens = candidates // count, jnp.take_along_axis(words.reshape(batch, -1), candidates, axis=1)
    ended = tokens == end_id

    finished = _merge(state, ended[:, :beam], log_probs[:, :beam], slots[:, :beam], alpha)
    full = (finished.scores > -jnp.inf).all(axis=1)
    alive, chosen = jax.lax.top_k(jnp.where(ended | full[:, None], -jnp.inf, log_probs), beam)
    parents = jnp.take_along_axis(slots, chosen, axis=1)
    last = jnp.take_along_axis(tokens, chosen, axis=1)
    if beam > 1:  # a single hypothesis stays where it is, and its cache need not be copied
        rows = jnp.arange(batch)[:, None] * beam + parents
        cache = reorder(cache, rows.reshape(-1))
    return state._replace(
        cache=cache,
        last=last.astype(state.last.dtype),
        alive=alive,
        finished=finished,
        tokens=state.tokens.at[state.position].set(last),
        parents=state.parents.at[state.position].set(parents),
        position=state.position + 1,
    )


def _merge(state: BeamState, ended: Array, log_probs: Array, slots: Array, alpha: float) -> Finished:
    """The best of the finished hypotheses and of the candidates that `ended`."""
    length = state.position + 1
    log_probs = jnp.where(ended, log_probs, -jnp.inf)
    lengths = jnp.where(log_probs > -jnp.inf, length, 0)
    new = Finished(log_probs / length_penalty(length, alpha), log_probs, lengths, slots)
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), state.finished, new)
    _, best = jax.lax.top_k(both.scores, log_probs.shape[1])
    return jax.tree.map(lambda array: jnp.take_along_axis(array, best, axis=1), both)


def continuations(
    logits: Float[Array, "rows vocab"],
    log_probs: Float[Array, " rows"],
    only_end: Bool[Array, " rows"],
    count: int,
    end_id: int,
    forbidden: tuple[int, ...],
) -> tuple[Float[Array, "rows count"], Int[Array, "rows count"]]:
    """The `count` best tokens after each row's text, best first, with the log-probabilities of the text so extended.

    Tokens are ruled out after normalising, so the others keep the probability that the model gives them. A row that has
    log-probability -inf keeps it, whatever its logits. Everything but two passes over the vocabulary works on `count`
    numbers a row: a mask as wide as the vocabulary inside of `top_k` was seen to take ten times as long on CPUs.
    """
    logits = logits.astype(jnp.float32)
    highest = jnp.max(logits, axis=-1, keepdims=True)
    normalizer = jax.nn.logsumexp(logits - highest, axis=-1, keepdims=True)
    allowed = logits.at[:, jnp.array(forbidden, jnp.int32)].set(-jnp.inf) if forbidden else logits
    best, tokens = jax.lax.top_k(allowed, count)
    best = jnp.where(best <= MASKED, -jnp.inf, best)  # rows that only pad the vocabulary
    the_end = jnp.where(jnp.arange(count)[None] == 0, logits[:, end_id, None], -jnp.inf)
    best = (jnp.where(only_end[:, None], the_end, best) - highest) - normalizer + log_probs[:, None]
    tokens = jnp.where(only_end[:, None], end_id, tokens)
    return jnp.where((log_probs == -jnp.inf)[:, None], -jnp.inf, best), tokens
