"""Rules for what a text goes on with, against the same by hand."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.decoding.constraints import OneOf, TextRules, TreeState, TreeTokens

END, VOCABULARY = 1, 7


def allowed(constraint, texts, prompts=(), capacity=8):
    """The tokens that may follow every text, which were generated behind left-padded prompts."""
    prompts = prompts or [[2]] * len(texts)
    width = max(map(len, prompts)) + 1
    prompt = jnp.array([[5] * (width - len(ids)) + ids for ids in prompts])
    state = constraint.start(prompt, jnp.array([*map(len, prompts)]), capacity)
    for tokens in zip(*texts, strict=True):
        state = jax.jit(constraint.advance)(state, jnp.array(tokens))
    logits = np.asarray(jax.jit(constraint.allow)(jnp.zeros((len(texts), VOCABULARY)), state))
    return [np.flatnonzero(np.isfinite(row)).tolist() for row in logits]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_run_of_tokens_comes_twice_that_of_the_prompt_included(size):
    random = np.random.default_rng(size)
    texts, prompts = random.integers(2, 5, (40, 6)).tolist(), [[2, 3, 4][: 1 + i % 3] for i in range(40)]
    (rules,) = TextRules(no_repeat_ngram=size).constraints(END)
    for found, prompt, text in zip(allowed(rules, texts, prompts), prompts, texts, strict=True):
        whole = prompt + text
        runs = {tuple(whole[i : i + size]) for i in range(len(whole) - size + 1)}
        expected = [token for token in range(VOCABULARY) if (*whole[len(whole) - size + 1 :], token) not in runs]
        assert found == expected
    assert len({*map(tuple, allowed(rules, texts, prompts))}) > 2


def test_a_text_does_not_end_before_it_is_long_enough_and_the_prompt_does_not_count():
    (rules,) = TextRules(min_length=2).constraints(END, 3)
    for length, ends in ((0, False), (1, False), (2, True)):
        (found, other) = allowed(rules, [[2] * length] * 2, [[2, 2, 2], [2]])
        assert found == other and (END in found) == (3 in found) == ends
    assert TextRules().constraints(END) == ()


def test_what_is_longer_than_prompt_and_text_never_comes_twice():
    (rules,) = TextRules(no_repeat_ngram=5).constraints(END)
    assert allowed(rules, [[2], [2]], [[2], [3]], capacity=1) == [[*range(VOCABULARY)]] * 2


def test_what_was_written_before_counts_in_the_length():
    (rules,) = TextRules(min_length=4).constraints(END)
    prompt, lengths = jnp.array([[2, 2], [2, 2]]), jnp.array([2, 2])
    state = rules.start(prompt, lengths, 4, jnp.array([4, 3]))
    ends = np.isfinite(np.asarray(rules.allow(jnp.zeros((2, VOCABULARY)), state))[:, END])
    assert ends.tolist() == [True, False]


def test_a_text_is_one_of_a_list():
    texts = [[2, 3, END], [2, 4, 4, END], [3, END], [2, 3, 5, END]]
    tree = OneOf.of(texts)
    assert allowed(tree, [[]]) == [[2, 3]]
    assert allowed(tree, [[2, 3], [2, 4], [3, END]]) == [[END, 5], [4], []]
    with pytest.raises(ValueError, match="no text to choose from"):
        OneOf.of([])


@pytest.mark.parametrize("limit", [4, 5, 6, 8])
def test_trees_are_all_that_have_the_leaves_and_fit_and_nothing_else(limit):
    leaves, constraint = 2, TreeTokens((2, 3), 4, (5, 6), END)(jnp.array([limit]), jnp.array([2]))
    state = constraint.start(jnp.array([[0]]), jnp.array([1]), limit)
    found: set[tuple[int, ...]] = set()
    pending: list[tuple[tuple[int, ...], TreeState]] = [((), state)]
    while pending:
        text, state = pending.pop()
        assert len(text) < limit, "there is always a way to an end"
        following = np.flatnonzero(np.isfinite(constraint.allow(jnp.zeros((1, VOCABULARY)), state)[0])).tolist()
        assert following or limit < leaves + 3
        for token in following:
            if token == END:
                found.add(text)
            else:
                pending.append(((*text, token), constraint.advance(state, jnp.array([token]))))

    def is_tree(text):
        letters = "".join("[[)xx"[token - 2] for token in text)
        while (shorter := re.sub(r"\[[xc]+\)", "c", letters)) != letters:
            letters = shorter
        return letters == "c" and text.count(5) + text.count(6) == leaves

    texts = itertools.chain.from_iterable(itertools.product((2, 3, 4, 5, 6), repeat=size) for size in range(limit))
    assert found == {text for text in texts if is_tree(text)}
    assert bool(found) == (limit >= leaves + 3)
