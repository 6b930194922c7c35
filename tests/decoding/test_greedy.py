"""Greedy search over a toy model whose next token depends on all tokens before, through a hash of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.decoding import greedy
from transformer_jax.nn.mask import MASKED

END, VOCAB, HASHES = 1, 6, 101
TABLE = np.random.default_rng(0).normal(0, 2, (HASHES, VOCAB)).astype(np.float32)
TABLE[:, END] -= 2  # or most texts would be too short to tell anything


def step(tokens, cache):
    def one(hashed, token):
        hashed = (hashed * 7 + token + 1) % HASHES
        return hashed, jnp.asarray(TABLE)[hashed]

    cache, logits = jax.lax.scan(one, cache, tokens.T)
    return jnp.moveaxis(logits, 0, 1), cache


def fresh(rows):
    return jnp.arange(rows, dtype=jnp.int32) * 13


def search(prompt, limits, capacity=8, forbidden=(), step=step, cache=None):
    limits = jnp.asarray(limits, jnp.int32)

    @jax.jit
    def run(cache, prompt, limits):
        return greedy.greedy_search(
            step, cache, prompt, end_id=END, max_new_tokens=limits, capacity=capacity, forbidden=forbidden
        )

    cache = fresh(len(prompt)) if cache is None else cache
    return jax.tree.map(np.asarray, run(cache, jnp.asarray(prompt, jnp.int32), limits))


def by_hand(prompt, cache, limit, forbidden=()):
    """The same search, a sentence at a time, in NumPy."""
    hashed, text, log_prob = cache, [], 0.0
    for token in prompt:
        hashed = (hashed * 7 + token + 1) % HASHES
    while not text or text[-1] != END:
        logits = TABLE[hashed].astype(np.float64)
        log_probs = logits - np.log(np.exp(logits).sum())
        allowed = [END] if len(text) + 1 == limit else [i for i in range(VOCAB) if i not in forbidden]
        text.append(max(allowed, key=lambda i: log_probs[i]))
        log_prob += log_probs[text[-1]]
        hashed = (hashed * 7 + text[-1] + 1) % HASHES
    return text, log_prob


@pytest.mark.parametrize("forbidden", [(), (0, 3)])
def test_greedy_search_follows_the_most_probable_token_within_each_limit(forbidden):
    prompts, limits = [[2, 4, 3]] * 8, [1, 2, 3, 5, 8, 8, 8, 99]
    tokens, lengths, log_probs = search(prompts, limits, forbidden=forbidden)
    assert len(set(lengths.tolist())) > 3
    for row in range(8):
        text, log_prob = by_hand(prompts[row], row * 13, min(limits[row], 8), forbidden)
        assert lengths[row] == len(text)
        np.testing.assert_array_equal(tokens[row], text + [0] * (8 - len(text)))
        np.testing.assert_allclose(log_probs[row], log_prob, rtol=1e-5)


def test_a_row_with_limit_zero_generates_nothing_and_disturbs_nobody():
    def broken_on_empty_rows(tokens, cache):
        logits, hashed = step(tokens, cache["hash"])
        return jnp.where(cache["empty"][:, None, None], jnp.nan, logits), {**cache, "hash": hashed}

    cache = {"hash": fresh(4), "empty": jnp.array([False, True, False, True])}
    tokens, lengths, log_probs = search([[2]] * 4, [8, 0, 8, 0], step=broken_on_empty_rows, cache=cache)
    alone = search([[2]] * 4, [8] * 4)
    np.testing.assert_array_equal(lengths[[1, 3]], 0)
    np.testing.assert_array_equal(tokens[[1, 3]], 0)
    np.testing.assert_array_equal(log_probs[[1, 3]], -np.inf)
    for found, expected in zip((tokens, lengths, log_probs), alone, strict=True):
        np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])


def test_a_model_that_never_wants_to_end_is_made_to_at_the_limit():
    def endless(tokens, cache):
        logits, cache = step(tokens, cache)
        return 1e4 * logits.at[..., END].set(-10.0), cache

    tokens, lengths, log_probs = search([[2]] * 3, [3, 5, 99], step=endless)
    np.testing.assert_array_equal(lengths, [3, 5, 8])
    np.testing.assert_array_equal(tokens[np.arange(3), lengths - 1], END)
    assert (log_probs < -1e4).all() and np.isfinite(log_probs).all()


@pytest.mark.parametrize("piece", [1, 3])
def test_pieces_make_the_whole_and_an_ended_search_stays_where_it_is(piece):
    limits = jnp.array([2, 5, 6], jnp.int32)
    prompt = jnp.full((3, 2), 4, jnp.int32)
    state = greedy.start(step, fresh(3), prompt, end_id=END, max_new_tokens=limits, capacity=8)
    traces = []

    @jax.jit
    def advance(state, count):
        traces.append(count)
        return greedy.advance(step, state, count)

    whole = advance(state, 8)
    assert whole.position == whole.lengths.max() < 8  # it stops with the longest row
    for _ in range(8):
        state = advance(state, piece)
    for found, expected in zip(jax.tree.leaves(state), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert len(traces) == 1


def test_rows_that_pad_the_vocabulary_are_no_continuations():
    logits = jnp.array([[0.5, 2.0, 1.0, MASKED, MASKED]])
    best, tokens = greedy.continuations(logits, jnp.zeros(1), jnp.array([False]), 5, 0, (2,))
    assert tokens[0, :2].tolist() == [1, 0] and jnp.isfinite(best[0, :2]).all()
    assert (best[0, 2:] == -jnp.inf).all()


def test_arguments_that_leave_nothing_to_search_are_refused():
    prompt = jnp.full((1, 1), 2, jnp.int32)
    limits = jnp.array([4], jnp.int32)
    for wrong, message in [
        ({"forbidden": (END,)}, "end token"),
        ({"capacity": 0}, "capacity is 0"),
        ({"prompt": prompt[:, :0]}, "prompt is empty"),
    ]:
        arguments = {"prompt": prompt, "end_id": END, "max_new_tokens": limits, "capacity": 4} | wrong
        with pytest.raises(ValueError, match=message):
            greedy.start(step, fresh(1), **arguments)
