"""Beam search with length normalisation (Wu et al. 2016, section 7; Vaswani et al. 2017, section 6.1).

With a beam of one hypothesis it is greedy search: the most probable token, again and again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Le
from jaxtyping import Array, Bool, Float, Int

from transformer_jax.decoding.constraints import Constraint, State, TextRules
from transformer_jax.decoding.growth import Grow, rooms
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


LengthRule = Literal["gnmt", "length"]
BeamSize = Annotated[int, Ge(1), Le(1024)]
Stopping = Literal["fairseq", "transformers", "tensor2tensor"]


@dataclass(frozen=True)
class BeamSearch(TextRules):
    """How texts are searched."""

    beam_size: BeamSize = 4
    """Hypotheses kept at each step; 1 is greedy search."""
    length_penalty: Annotated[float, Ge(-100), Le(100)] = 0.6
    """alpha in log P(Y) / ((5 + |Y|) / 6)^alpha, or as `length_rule` says."""
    length_rule: LengthRule = "gnmt"
    """gnmt: as above (Wu et al. 2016, equation 14; Tensor2Tensor); length: log P(Y) / |Y|^alpha, as in fairseq and
    transformers."""
    stopping: Stopping = "fairseq"
    """When a sentence is done. fairseq: as soon as beam_size hypotheses have finished (early_stopping=True of
    transformers). Or, when so many have, once the best one that is alive is no better than the worst of them: with its
    length so far (transformers) or with the longest that it may get, if that helps it (tensor2tensor; "never" of
    transformers)."""
    groups: Annotated[int, Ge(1)] = 1
    """Groups of equal size into which the beam is divided, each searched by itself but for `diversity`."""
    diversity: Annotated[float, Ge(0)] = 0.5
    """With several groups, what a token loses for each hypothesis of the groups before that goes on with it here:
    lambda of the Hamming diversity of Vijayakumar et al. 2016, section 4. An end loses nothing. Scores leave it out."""

    def __post_init__(self) -> None:
        if self.groups > 0 and self.beam_size % self.groups:
            raise ValueError(f"decoding.groups {self.groups} does not divide decoding.beam_size {self.beam_size}")

    def settings(self) -> dict[str, Any]:
        """The arguments of `beam_search` that have these names there."""
        names = {"beam_size": self.beam_size, "alpha": self.length_penalty}
        names |= {"length_rule": self.length_rule, "stopping": self.stopping}
        return names | {"groups": self.groups, "diversity": self.diversity}


class Finished(NamedTuple):
    """The best finished hypotheses of each sentence, best first; where there are fewer, the rest have score -inf."""

    scores: Float[Array, "batch beam"]
    """Log-probabilities over length penalties."""
    log_probs: Float[Array, "batch beam"]
    """Log-probabilities of the texts with their end tokens."""
    lengths: Int[Array, "batch beam"]
    """Generated tokens, the end token included; 0 for the rest."""
    slots: Int[Array, "batch beam"]
    """The alive hypothesis to which the last token was appended."""
    ends: Int[Array, "batch beam"]
    """That token."""


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
    constraints: tuple[State, ...]
    """What each constraint knows of the batch * beam rows."""
    position: Int[Array, ""]
    """How many tokens the hypotheses that are alive have."""


class BeamResult(NamedTuple):
    """Finished hypotheses, best first. Where a sentence has fewer, the rest have score -inf, length 0 and tokens 0."""

    tokens: Int[Array, "batch beam capacity"]
    """Ending in an end token; 0 after it."""
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
    end_id: int | tuple[int, ...],
    max_new_tokens: Int[Array, " batch"],
    capacity: int,
    alpha: float = 0.6,
    length_rule: LengthRule = "gnmt",
    stopping: Stopping = "fairseq",
    groups: int = 1,
    diversity: float = 0.0,
    forbidden: tuple[int, ...] = (),
    constraints: tuple[Constraint, ...] = (),
    before: tuple[Int[Array, "batch length"], Int[Array, " batch"]] | None = None,
    counted: int = 0,
    cut: bool = False,
    grow: Grow | None = None,
) -> BeamResult:
    """The best continuations of `prompt`, each of which ends in (one of) `end_id` within its row's `max_new_tokens`.

    At every position the best `beam_size` extensions that do not end stay alive, and those that end count as finished
    if they are among the best `beam_size` of all. A sentence is done as `stopping` says, or at its limit, where only
    an end token is allowed. Of equal ones the lower slot, then the lower token wins. A row with `max_new_tokens` 0 has
    no hypothesis. `capacity` bounds the new tokens of all rows; the cache needs room for prompt_length + capacity - 1
    tokens or, with `grow`, which makes room as texts get longer, for prompt_length + rooms(capacity)[0] - 1. Where
    `prompt` is only the end of the prompts, `before` shows them whole to the constraints: at the right end of an array,
    and their lengths. `counted`: tokens at the prompt's end that belong to the text whose length is looked at. `cut`:
    at its limit, a text counts as it is, whatever its last token (transformers). Raises ValueError where the arguments
    leave nothing to search.
    """
    if prompt.shape[1] < 1:
        raise ValueError("the prompt is empty: begin it with one token at least, usually the bos token")
    if capacity < 1:
        raise ValueError(f"capacity is {capacity}: give room for one token at least")
    ends = (end_id,) if isinstance(end_id, int) else end_id
    if not ends or {*ends} & {*forbidden}:
        raise ValueError(f"forbidden holds an end token of {ends}, without which no text can end: take it out")
    if beam_size < 1:
        raise ValueError(f"beam_size is {beam_size}: keep one hypothesis at least")
    if beam_size % groups:
        raise ValueError(f"groups is {groups}, which does not divide beam_size {beam_size}")
    if prompt.shape[1] > 1:  # in one call, before the rows are repeated
        _, cache = step(prompt[:, :-1], cache)
    batch, given = prompt.shape
    limits = jnp.minimum(max_new_tokens, capacity)
    # All hypotheses begin with the same text: only the first of a group counts, or the group would hold it many times.
    first = (jnp.arange(beam_size) % (beam_size // groups) == 0)[None] & (limits > 0)[:, None]
    nothing = jnp.full((batch, beam_size), -jnp.inf, jnp.float32)
    none = jnp.zeros((batch, beam_size), jnp.int32)
    repeated = jnp.repeat(jnp.arange(batch), beam_size)
    before = (prompt, jnp.full(batch, given)) if before is None else before
    known = tuple(each.start(*before, capacity) for each in constraints)
    state = BeamState(
        cache=cache if beam_size == 1 else reorder(cache, repeated),
        last=jnp.repeat(prompt[:, -1:], beam_size, axis=1),
        alive=jnp.where(first, 0.0, nothing),
        finished=Finished(nothing, nothing, none, none, none),
        tokens=jnp.zeros((capacity, batch, beam_size), jnp.int32),
        parents=jnp.zeros((capacity, batch, beam_size), jnp.int32),
        limits=limits,
        constraints=jax.tree.map(lambda array: array[repeated], known),
        position=jnp.zeros((), jnp.int32),
    )

    def unfinished(room: int, state: BeamState) -> Array:
        return (state.position < room) & (state.alive > -jnp.inf).any()

    def penalty(length: Array) -> Array:
        return length_penalty(length + counted, alpha, length_rule)

    def extended(state: BeamState) -> BeamState:
        logits, cache = step(state.last.reshape(-1, 1), state.cache)
        chosen, used = [], None
        for first in range(0, beam_size, beam_size // groups):
            part, of_part = _group(state, logits[:, -1], first, beam_size // groups)
            found = _choose(of_part, part, first, used, ends, penalty, stopping, forbidden, constraints, cut)
            chosen.append(found)
            if groups > 1:
                used = _add_used(used, found, diversity, logits.shape[-1])
        together = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *chosen) if groups > 1 else chosen[0]
        return _advance(reorder, state._replace(cache=cache), together, constraints)

    wider: Grow = grow or (lambda cache, _: cache)  # without `grow` there is one size, and none is asked for
    sizes = (capacity,) if grow is None else rooms(capacity)

    def searched(state: BeamState, room: int, *more: int) -> BeamState:
        """The state at the end, without its cache, which has room for so many tokens now."""
        state = jax.lax.while_loop(partial(unfinished, room), extended, state)
        if not more:
            return state._replace(cache=None)
        return jax.lax.cond(
            unfinished(capacity, state),
            lambda state: searched(state._replace(cache=wider(state.cache, more[0])), *more),
            lambda state: state._replace(cache=None),
            state,
        )

    return _result(searched(state, *sizes), groups)


def _result(state: BeamState, groups: int) -> BeamResult:
    """The finished hypotheses, their tokens collected along their parents."""
    finished = state.finished
    if groups > 1:  # sorted in each group so far
        _, order = jax.lax.top_k(finished.scores, finished.scores.shape[1])
        finished = jax.tree.map(lambda array: jnp.take_along_axis(array, order, axis=1), finished)

    def back(slots: Array, at: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        position, tokens, parents = at
        inside = position < finished.lengths - 1
        token = jnp.where(inside, jnp.take_along_axis(tokens, slots, axis=1), 0)
        token = jnp.where(position == finished.lengths - 1, finished.ends, token)
        return jnp.where(inside, jnp.take_along_axis(parents, slots, axis=1), slots), token

    columns = (jnp.arange(len(state.tokens)), state.tokens, state.parents)
    _, tokens = jax.lax.scan(back, finished.slots, columns, reverse=True)
    return BeamResult(jnp.moveaxis(tokens, 0, -1), finished.lengths, finished.scores, finished.log_probs)


def length_penalty(
    length: int | Int[Array, "*shape"], alpha: float, rule: LengthRule = "gnmt"
) -> Float[Array, "*shape"]:
    """The divisor of log-probabilities; see `BeamSearch.length_rule`."""
    tokens = jnp.asarray(length)
    return ((5.0 + tokens) / 6.0 if rule == "gnmt" else tokens.astype(jnp.float32)) ** alpha


Penalty = Callable[[Array], Array]


class Chosen(NamedTuple):
    """The hypotheses of a group after one more token."""

    finished: Finished
    alive: Float[Array, "batch size"]
    parents: Int[Array, "batch size"]
    last: Int[Array, "batch size"]


def _group(state: BeamState, logits: Array, first: int, size: int) -> tuple[BeamState, Array]:
    """What concerns the `size` hypotheses from slot `first` on, and their logits."""
    batch, beam = state.alive.shape
    if size == beam:
        return state, logits

    def rows(array: Array) -> Array:
        return array.reshape(batch, beam, *array.shape[1:])[:, first : first + size].reshape(-1, *array.shape[1:])

    alive, finished = jax.tree.map(lambda array: array[:, first : first + size], (state.alive, state.finished))
    known = jax.tree.map(rows, state.constraints)
    return state._replace(alive=alive, finished=finished, constraints=known), rows(logits)


def _add_used(used: Array | None, chosen: Chosen, diversity: float, vocab: int) -> Array:
    """What every token loses `[batch, vocab]` in the groups that come next."""
    batch = len(chosen.last)
    used = jnp.zeros((batch, vocab)) if used is None else used
    return used.at[jnp.arange(batch)[:, None], chosen.last].add(diversity * (chosen.alive > -jnp.inf))


def _choose(
    logits: Array,
    state: BeamState,
    first: int,
    used: Array | None,
    ends: tuple[int, ...],
    penalty: Penalty,
    stopping: Stopping,
    forbidden: tuple[int, ...],
    constraints: tuple[Constraint, ...],
    cut: bool,
) -> Chosen:
    """The best extensions of a group's hypotheses, which begin at slot `first`."""
    batch, beam = state.alive.shape
    at_limit = state.position + 1 >= state.limits
    only_end = jnp.repeat(at_limit & (not cut), beam)
    # Each of the `beam` hypotheses can end in as many ways as there are end tokens, so that many more candidates leave
    # `beam` that do not end. A beam of one needs none: where its best extension ends, the sentence is done.
    enough = (1 + len(ends)) * beam
    count = 1 if beam == 1 else min(enough, logits.shape[-1])
    alive = state.alive.reshape(-1)
    limited = tuple(zip(constraints, state.constraints, strict=True))
    lost = None if used is None else jnp.repeat(used, beam, axis=0)
    totals, words = continuations(logits, alive, only_end, count, ends, forbidden, limited, lost)
    totals, words = totals.reshape(batch, -1), words.reshape(batch, -1)
    ranks = totals if used is None else totals - jnp.take_along_axis(used, words, axis=1)
    ranks, candidates = jax.lax.top_k(ranks, min(enough, beam * count))
    log_probs = ranks if used is None else jnp.take_along_axis(totals, candidates, axis=1)
    slots, tokens = candidates // count + first, jnp.take_along_axis(words, candidates, axis=1)
    ended = jnp.isin(tokens, jnp.array(ends)) | (at_limit & cut)[:, None]

    best = (array[:, :beam] for array in (ended, log_probs, slots, tokens))
    finished = _merge(state, penalty, *best)
    alive, chosen = jax.lax.top_k(jnp.where(ended, -jnp.inf, ranks), beam)
    if used is not None:
        alive = jnp.where(alive > -jnp.inf, jnp.take_along_axis(log_probs, chosen, axis=1), -jnp.inf)
    alive = jnp.where(_done(finished, alive, state, penalty, stopping)[:, None], -jnp.inf, alive)
    parents = jnp.take_along_axis(slots, chosen, axis=1)
    return Chosen(finished, alive, parents, jnp.take_along_axis(tokens, chosen, axis=1))


def _advance(reorder: Reorder, state: BeamState, chosen: Chosen, constraints: tuple[Constraint, ...]) -> BeamState:
    """The state in which the chosen hypotheses are alive."""
    batch, beam = chosen.alive.shape
    cache, known, last = state.cache, state.constraints, chosen.last
    if beam > 1:  # a single hypothesis stays where it is, and its cache need not be copied
        rows = (jnp.arange(batch)[:, None] * beam + chosen.parents).reshape(-1)
        cache, known = reorder(cache, rows), jax.tree.map(lambda array: array[rows], known)
    return state._replace(
        cache=cache,
        last=last.astype(state.last.dtype),
        alive=chosen.alive,
        finished=chosen.finished,
        tokens=state.tokens.at[state.position].set(last),
        parents=state.parents.at[state.position].set(chosen.parents),
        constraints=tuple(each.advance(of, last.reshape(-1)) for each, of in zip(constraints, known, strict=True)),
        position=state.position + 1,
    )


def _done(finished: Finished, alive: Array, state: BeamState, penalty: Penalty, stopping: Stopping) -> Array:
    """The sentences `[batch]` that need no more search; `alive` are log-probabilities."""
    full = (finished.scores > -jnp.inf).all(axis=1)
    if stopping == "fairseq":
        return full
    highest = alive.max(axis=1)
    best = highest / penalty(state.position + 1)
    if stopping == "tensor2tensor":
        best = jnp.maximum(best, highest / penalty(state.limits))
    return full & (best <= finished.scores.min(axis=1))


def _merge(state: BeamState, penalty: Penalty, ended: Array, log_probs: Array, slots: Array, tokens: Array) -> Finished:
    """The best of the finished hypotheses and of the candidates that `ended`."""
    length = state.position + 1
    log_probs = jnp.where(ended, log_probs, -jnp.inf)
    lengths = jnp.where(log_probs > -jnp.inf, length, 0)
    new = Finished(log_probs / penalty(length), log_probs, lengths, slots, tokens)
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), state.finished, new)
    _, best = jax.lax.top_k(both.scores, log_probs.shape[1])
    return jax.tree.map(lambda array: jnp.take_along_axis(array, best, axis=1), both)


def continuations(
    logits: Float[Array, "rows vocab"],
    log_probs: Float[Array, " rows"],
    only_end: Bool[Array, " rows"],
    count: int,
    ends: tuple[int, ...],
    forbidden: tuple[int, ...],
    constraints: tuple[tuple[Constraint, State], ...] = (),
    lost: Float[Array, "rows vocab"] | None = None,
) -> tuple[Float[Array, "rows count"], Int[Array, "rows count"]]:
    """The `count` best tokens after each row's text, best first, with the log-probabilities of the text so extended.

    Tokens are ruled out after normalising, so the others keep the probability that the model gives them. A row that has
    log-probability -inf keeps it, whatever its logits. Everything but two passes over the vocabulary works on `count`
    numbers a row: a mask as wide as the vocabulary inside of `top_k` was seen to take ten times as long on CPUs.
    With `lost`, tokens are ranked as if their log-probabilities were so much lower.
    """
    logits = logits.astype(jnp.float32)
    highest = jnp.max(logits, axis=-1, keepdims=True)
    normalizer = jax.nn.logsumexp(logits - highest, axis=-1, keepdims=True)
    allowed = logits.at[:, jnp.array(forbidden, jnp.int32)].set(-jnp.inf) if forbidden else logits
    for constraint, state in constraints:
        allowed = constraint.allow(allowed, state)
    best, tokens = jax.lax.top_k(allowed if lost is None else allowed - lost, count)
    best = best if lost is None else jnp.take_along_axis(allowed, tokens, axis=1)
    best = jnp.where(best <= MASKED, -jnp.inf, best)  # rows that only pad the vocabulary
    last = logits[:, jnp.array(ends)]
    the_end = jnp.where(jnp.arange(count)[None] == 0, jnp.max(last, axis=1, keepdims=True), -jnp.inf)
    best = (jnp.where(only_end[:, None], the_end, best) - highest) - normalizer + log_probs[:, None]
    tokens = jnp.where(only_end[:, None], jnp.array(ends)[jnp.argmax(last, axis=1, keepdims=True)], tokens)
    return jnp.where((log_probs == -jnp.inf)[:, None], -jnp.inf, best), tokens
