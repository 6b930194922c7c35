"""Greedy search: the most probable next token, again and again."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from transformer_jax.nn.mask import MASKED

Cache = Any
"""What the model remembers of the tokens so far: any pytree."""

Step = Callable[[Int[Array, "rows new"], Cache], tuple[Float[Array, "rows new vocab"], Cache]]
"""Appends `new` tokens to the cache and returns the logits of the token that follows each of them."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GreedyState:
    """A search under way."""

    cache: Cache
    """Holds every token but the last."""
    last: Int[Array, " batch"]
    """The token to feed next."""
    tokens: Int[Array, "batch capacity"]
    """What has been generated, 0 after the end."""
    lengths: Int[Array, " batch"]
    """Generated tokens, the end token included."""
    log_probs: Float[Array, " batch"]
    """Log-probability of the generated tokens; -inf in a row whose limit is 0."""
    alive: Bool[Array, " batch"]
    """Rows that have not ended."""
    limits: Int[Array, " batch"]
    """Tokens that a row may have, the end token included."""
    position: Int[Array, ""]
    """Number of the token to generate next, from 0."""
    end_id: int = field(metadata={"static": True})
    """The token that ends a text."""
    forbidden: tuple[int, ...] = field(metadata={"static": True})
    """Tokens that are never generated."""


def greedy_search(
    step: Step,
    cache: Cache,
    prompt: Int[Array, "batch prompt_length"],
    *,
    end_id: int,
    max_new_tokens: Int[Array, " batch"],
    capacity: int,
    forbidden: tuple[int, ...] = (),
) -> tuple[Int[Array, "batch capacity"], Int[Array, " batch"], Float[Array, " batch"]]:
    """Tokens (0 after the end), lengths and log-probabilities of the greedy continuations of `prompt`; see `start`."""
    state = start(
        step, cache, prompt, end_id=end_id, max_new_tokens=max_new_tokens, capacity=capacity, forbidden=forbidden
    )
    state = advance(step, state, capacity)
    return state.tokens, state.lengths, state.log_probs


def start(
    step: Step,
    cache: Cache,
    prompt: Int[Array, "batch prompt_length"],
    *,
    end_id: int,
    max_new_tokens: Int[Array, " batch"],
    capacity: int,
    forbidden: tuple[int, ...] = (),
) -> GreedyState:
    """Feeds the prompt but its last token, in one call; that token is the first that `advance` feeds.

    Every continuation ends in `end_id` within `max_new_tokens` of its row, and within `capacity`: where nothing but the
    end fits, the end it is. A row with `max_new_tokens` 0 generates nothing. The cache needs room for
    prompt_length + capacity - 1 tokens. Raises ValueError where the arguments leave nothing to search.
    """
    check_search(prompt, end_id, capacity, forbidden)
    batch = prompt.shape[0]
    limits = jnp.minimum(max_new_tokens, capacity)
    return GreedyState(
        cache=prefill(step, cache, prompt),
        last=prompt[:, -1],
        tokens=jnp.zeros((batch, capacity), jnp.int32),
        lengths=jnp.zeros(batch, jnp.int32),
        log_probs=jnp.where(limits > 0, jnp.float32(0), -jnp.inf),
        alive=limits > 0,
        limits=limits,
        position=jnp.zeros((), jnp.int32),
        end_id=end_id,
        forbidden=forbidden,
    )


def advance(step: Step, state: GreedyState, num_tokens: int | Int[Array, ""]) -> GreedyState:
    """The search at most `num_tokens` tokens further on; it stops early when every row has ended."""
    stop = state.position + num_tokens

    def unfinished(state: GreedyState) -> Array:
        return (state.position < stop) & state.alive.any()

    return jax.lax.while_loop(unfinished, lambda state: _extend(step, state), state)


def _extend(step: Step, state: GreedyState) -> GreedyState:
    logits, cache = step(state.last[:, None], state.cache)
    only_end = state.position + 1 >= state.limits
    best, tokens = continuations(logits[:, -1], state.log_probs, only_end, 1, state.end_id, state.forbidden)
    token = jnp.where(state.alive, tokens[:, 0], 0).astype(state.last.dtype)
    return replace(
        state,
        cache=cache,
        last=token,
        tokens=state.tokens.at[:, state.position].set(token.astype(jnp.int32)),
        lengths=state.lengths + state.alive,
        log_probs=jnp.where(state.alive, best[:, 0], state.log_probs),
        alive=state.alive & (token != state.end_id) & ~only_end,
        position=state.position + 1,
    )


def check_search(prompt: Int[Array, "batch prompt_length"], end_id: int, capacity: int, forbidden: tuple[int, ...]):
    """Raises ValueError for arguments with which no search can find anything."""
    if prompt.shape[1] < 1:
        raise ValueError("the prompt is empty: begin it with one token at least, usually the bos token")
    if capacity < 1:
        raise ValueError(f"capacity is {capacity}: give room for one token at least")
    if end_id in forbidden:
        raise ValueError(f"forbidden holds the end token {end_id}, without which no text can end: take it out")


def prefill(step: Step, cache: Cache, prompt: Int[Array, "batch prompt_length"]) -> Cache:
    """The cache with all of the prompt but its last token, which the first step of the search feeds."""
    if prompt.shape[1] == 1:
        return cache
    return step(prompt[:, :-1], cache)[1]


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
