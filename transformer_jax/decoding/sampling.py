"""Generation token by token: greedy or random, resumable, so that a caller can show the text as it comes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt, Le
from jaxtyping import Array, Bool, Float, Int, Key

from transformer_jax.data.fields import check_ranges
from transformer_jax.decoding.beam import Cache, Step
from transformer_jax.decoding.constraints import Constraint, State

GREEDY = 1e-6
"""Temperatures below are taken as 0: what is divided by them might be infinite."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen from the model's logits; by default it is drawn from the model's distribution."""

    temperature: Annotated[float, Ge(0)] = 1.0
    """Logits are divided by it; 0 is greedy: always the most probable token."""
    top_k: Annotated[int, Ge(0)] = 0
    """Only so many of the most probable tokens stay; 0: all."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Only the most probable tokens that together have this probability stay (Holtzman et al. 2020, section 3.1)."""
    min_p: Annotated[float, Ge(0), Le(1)] = 0.0
    """Tokens of less than this times the highest probability are dropped (Nguyen et al. 2024, section 3)."""
    repetition_penalty: Annotated[float, Gt(0)] = 1.0
    """Above 1: tokens of the prompt and of the text so far become less likely (Keskar et al. 2019, section 4.1)."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GenerationState:
    """A generation in progress. To end rows from outside, such as at a stop string, take them out of `alive`."""

    cache: Cache
    """Keys and values of the prompts and of all generated tokens but the last."""
    last: Int[Array, " batch"]
    """The last generated token, which the model reads next."""
    tokens: Int[Array, "batch capacity"]
    """Generated tokens, 0 after the end."""
    lengths: Int[Array, " batch"]
    """The number of generated tokens, an end token included."""
    log_probs: Float[Array, " batch"]
    """The log-probability of a row's generated tokens under the model, before temperature and filters."""
    allowed_log_probs: Float[Array, " batch"]
    """The same among the tokens that the constraints allow."""
    alive: Bool[Array, " batch"]
    """Rows that have neither ended nor reached their limit."""
    limits: Int[Array, " batch"]
    """The most tokens that a row may generate, an end token included."""
    keys: Key[Array, " batch"]
    """A random key for each row, into which the number of a token is folded."""
    seen: Bool[Array, "batch vocabulary"] | None
    """Which tokens occur in prompt and text, for a repetition penalty."""
    constrained: tuple[State, ...]
    """What each constraint knows of the rows."""
    position: Int[Array, ""]
    """How many tokens have been generated, counted from the prompt's end."""
    sampling: Sampling = field(metadata={"static": True})
    """How tokens are chosen."""
    constraints: tuple[Constraint, ...] = field(metadata={"static": True})
    """Rules for the next token."""
    end_ids: tuple[int, ...] = field(metadata={"static": True})
    """The tokens that end a text; without one, only the limit does."""
    forbidden: tuple[int, ...] = field(metadata={"static": True})
    """Tokens that are never generated."""


def start_generation(
    logits: Float[Array, "batch vocabulary"],
    cache: Cache,
    prompt: Int[Array, "batch prompt_length"],
    prompt_lengths: Int[Array, " batch"],
    *,
    seed: int | Int[Array, ""],
    row_ids: Int[Array, " batch"],
    max_new_tokens: Int[Array, " batch"],
    capacity: int,
    sampling: Sampling = Sampling(),
    seen: Bool[Array, "batch vocabulary"] | None = None,
    end_id: int | tuple[int, ...] | None = None,
    forbidden: tuple[int, ...] = (),
    constraints: tuple[Constraint, ...] = (),
    written: Int[Array, " batch"] | None = None,
) -> GenerationState:
    """Chooses the first token from `logits`, those after the prompts; `cache` holds the whole prompts.

    The prompts stand at the right end of `prompt`, behind their padding. A text ends with `end_id`, or with one of
    several, or without any at `max_new_tokens` of its row or `capacity`; with `max_new_tokens` 0 a row generates
    nothing. The cache needs room as `continue_generation` says. `seen`: tokens that count as repeated beside
    those of the prompt; `written`: how many tokens of each row's text came before. What a row draws depends on `seed`,
    its number in `row_ids` and its own text alone, not on the batch it stands in. Raises ValueError for arguments that
    generate nothing.
    """
    check_ranges(sampling, "sampling")
    if capacity < 1:
        raise ValueError(f"capacity is {capacity}: give room for one token at least")
    batch = prompt.shape[0]
    limits = jnp.minimum(max_new_tokens, capacity)
    if sampling.repetition_penalty != 1:
        before = _seen(prompt, prompt_lengths, logits.shape[1])
        seen = before if seen is None else before | seen
    state = GenerationState(
        cache=cache,
        last=jnp.zeros(batch, jnp.int32),
        tokens=jnp.zeros((batch, capacity), jnp.int32),
        lengths=jnp.zeros(batch, jnp.int32),
        log_probs=jnp.zeros(batch, jnp.float32),
        allowed_log_probs=jnp.zeros(batch, jnp.float32),
        alive=limits > 0,
        limits=limits,
        keys=jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), row_ids),
        seen=seen,
        constrained=tuple(
            each.start(prompt, prompt_lengths, capacity, 0 if written is None else written) for each in constraints
        ),
        position=jnp.zeros((), jnp.int32),
        sampling=sampling,
        constraints=constraints,
        end_ids=() if end_id is None else (end_id,) if isinstance(end_id, int) else end_id,
        forbidden=forbidden,
    )
    return _append(state, logits, cache)


def continue_generation(extend: Step, state: GenerationState, steps: int | Int[Array, ""]) -> GenerationState:
    """Continues the generation by at most `steps` tokens, with the same texts however many calls share the steps.

    Stops early when no row is alive. The cache needs room for the prompts and the tokens then written but the last:
    prompt_length + min(position + steps, capacity) - 1 slots, of which it may get more between two calls.
    """
    stop = state.position + steps

    def unfinished(state: GenerationState) -> Array:
        return (state.position < stop) & state.alive.any()

    def one_more(state: GenerationState) -> GenerationState:
        logits, cache = extend(state.last[:, None], state.cache)
        return _append(state, logits[:, -1], cache)

    return jax.lax.while_loop(unfinished, one_more, state)


def filtered_logits(
    logits: Float[Array, "batch vocabulary"], sampling: Sampling, seen: Bool[Array, "batch vocabulary"] | None
) -> Float[Array, "batch vocabulary"]:
    """The logits from which a token is drawn, in float32; -inf for those left out.

    In this order: repetition penalty, temperature, top-k, top-p, min-p, each on what the one before has left. Tokens
    that are exactly as probable as the last one that stays, stay too. With temperature 0, where only the highest logit
    counts, the penalty is all. `top_p` without `top_k` sorts the vocabulary, which takes long on CPUs.
    """
    logits = logits.astype(jnp.float32)
    if seen is not None:
        penalty = sampling.repetition_penalty
        logits = jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)
    if sampling.temperature < GREEDY:
        return logits
    logits = logits / sampling.temperature
    vocabulary = logits.shape[-1]
    count = min(sampling.top_k or vocabulary, vocabulary)
    if count < vocabulary or sampling.top_p < 1:
        best, _ = jax.lax.top_k(logits, count)
        logits = _at_least(logits, best[:, -1:])
        if sampling.top_p < 1:
            probabilities = jnp.exp(best - jax.nn.logsumexp(logits, axis=-1, keepdims=True))
            more_probable = jnp.cumsum(probabilities, axis=-1) - probabilities
            stays = jnp.where(more_probable < sampling.top_p, best, jnp.inf)
            logits = _at_least(logits, jnp.min(stays, axis=-1, keepdims=True))
    if sampling.min_p > 0:
        logits = _at_least(logits, jnp.max(logits, axis=-1, keepdims=True) + math.log(sampling.min_p))
    return logits


def cut_at(text: str, stops: Sequence[str], *, more: bool = False) -> tuple[str, bool]:
    """The text in front of the stop string that is complete first, and whether the text has one.

    With `more`, for a text that is still growing, an end that could be the beginning of a stop string is held back: the
    result is then always the beginning of the results for the longer texts. Raises ValueError for an empty stop string.
    """
    if "" in stops:
        raise ValueError("a stop string is empty, and every text begins with that: leave it out")
    matches = [(start + len(stop), start) for stop in stops if (start := text.find(stop)) >= 0]
    if matches:
        return text[: min(matches)[1]], True
    beginnings = [stop[:size] for stop in stops for size in range(1, len(stop))] if more else []
    held_back = max((len(beginning) for beginning in beginnings if text.endswith(beginning)), default=0)
    return text[: len(text) - held_back], False


def _append(state: GenerationState, logits: Array, cache: Cache) -> GenerationState:
    """The state with one token more in every row that is alive."""
    allowed = logits.at[:, jnp.array(state.forbidden, jnp.int32)].set(-jnp.inf) if state.forbidden else logits
    for constraint, of_rows in zip(state.constraints, state.constrained, strict=True):
        allowed = constraint.allow(allowed, of_rows)
    filtered = filtered_logits(allowed, state.sampling, state.seen)
    if state.sampling.temperature < GREEDY:
        chosen = jnp.argmax(filtered, axis=-1)
    else:
        keys = jax.vmap(jax.random.fold_in)(state.keys, state.lengths)
        chosen = jax.vmap(jax.random.categorical)(keys, filtered)
    token = jnp.where(state.alive, chosen, 0).astype(jnp.int32)
    log_probs = (jax.nn.log_softmax(of.astype(jnp.float32)) for of in (logits, allowed))
    added, added_allowed = (
        jnp.where(state.alive, jnp.take_along_axis(of, token[:, None], axis=1)[:, 0], 0) for of in log_probs
    )
    ended = state.position + 1 >= state.limits
    for end_id in state.end_ids:
        ended = ended | (token == end_id)
    advanced = zip(state.constraints, state.constrained, strict=True)
    return replace(
        state,
        cache=cache,
        last=token,
        tokens=state.tokens.at[:, state.position].set(token),
        lengths=state.lengths + state.alive,
        log_probs=state.log_probs + added,
        allowed_log_probs=state.allowed_log_probs + added_allowed,
        alive=state.alive & ~ended,
        seen=None if state.seen is None else state.seen.at[jnp.arange(len(token)), token].max(state.alive),
        constrained=tuple(constraint.advance(of_rows, token) for constraint, of_rows in advanced),
        position=state.position + 1,
    )


def _at_least(logits: Array, least: Array) -> Array:
    return jnp.where(logits < least, -jnp.inf, logits)


def _seen(prompt: Array, lengths: Array, vocabulary: int) -> Array:
    """The tokens of each prompt `[batch, vocabulary]`, its padding left out."""
    batch, width = prompt.shape
    real = jnp.arange(width)[None] >= width - lengths[:, None]
    return jnp.zeros((batch, vocabulary), bool).at[jnp.arange(batch)[:, None], prompt].max(real)
