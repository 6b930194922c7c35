"""Heads that the measures of figures 3 to 5 choose."""

import numpy as np
import pytest

from transformer_jax.reproduction.figures import anaphora, figures, long_distance, picture, structure
from transformer_jax.tasks.predictor import AttentionMap

TOKENS = ["▁The", "▁Law", "▁is", "▁good", "▁but", "▁its", "▁use", "</s>"]


@pytest.fixture
def weights():
    """Two layers of three heads that look at themselves."""
    return np.tile(np.eye(len(TOKENS), dtype=np.float32), (2, 3, 1, 1))


def test_the_head_that_looks_farthest_is_chosen(weights):
    weights[1, 2] = weights[1, 2][::-1]
    found = long_distance(weights)
    assert (found.layer, found.heads, found.value) == (2, (3,), 4.0)


def test_a_pronoun_is_followed_to_a_word_before_it_that_may_be_a_noun(weights):
    weights[0, 1, 5] = [0.5, 0.4, 0, 0, 0, 0, 0.1, 0]  # the article and what follows do not count
    weights[1, 0, 5] = [0, 0.3, 0, 0.1, 0, 0.6, 0, 0]
    found = anaphora(weights, TOKENS)
    assert found and (found.layer, found.heads) == (1, (2,)) and found.value == pytest.approx(0.4)
    assert "'its' (token 6) on 'law'" in str(found)
    assert anaphora(weights[..., :5, :5], TOKENS[:5]) is None
    for pieces in (["▁Law", "▁dig", "it", "s"], ["▁Law", "▁it", "em", "s"]):
        assert anaphora(weights[..., :4, :4], pieces) is None, "a piece of a word is no pronoun"
    assert anaphora(weights[..., :3, :3], ["▁Law", "▁it", "."])


def test_the_two_heads_of_a_layer_that_differ_most_are_shown_alone(weights):
    weights[1, 1] = np.roll(weights[1, 1], 1, axis=1)
    weights[1, 2] = 0.5 * weights[1, 1] + 0.5 * weights[1, 0]
    found = structure(weights)
    assert (found.layer, found.heads) == (2, (1, 2)) and found.value == pytest.approx(1)
    attention = AttentionMap("Encoder self-attention", weights, TOKENS, TOKENS)
    shown = picture(attention, found)
    assert shown.weights.shape[:2] == (1, 2) and (shown.layers, shown.heads) == ((2,), (1, 2))
    np.testing.assert_array_equal(shown.weights[0], weights[1, :2])
    assert [one.figure for one in figures(attention)] == ["long distance", "anaphora", "sentence structure"]
