from typing import Any

import numpy as np
import pytest

from transformer_jax.data.masking import mask_tokens

TOKENS = np.random.default_rng(0).integers(5, 100, (40, 64)).astype(np.int32)
LENGTHS = np.random.default_rng(1).integers(10, 65, 40)
REAL = np.arange(64)[None] < LENGTHS[:, None]
KEYS = np.stack([np.arange(40), np.zeros(40, int)], axis=1)
SETTINGS = {"rate": 0.15, "mask_id": 4, "vocab_size": 100, "special": {0, 2, 3, 4}}


def mask(tokens=TOKENS, real=REAL, keys=KEYS, *, seed=0, epoch=0, **changes: Any):
    return mask_tokens(tokens, real, keys, seed=seed, epoch=epoch, **(SETTINGS | changes))


def test_fifteen_percent_are_chosen_of_which_eighty_ten_and_ten():
    found = [mask(epoch=epoch) for epoch in range(40)]
    chosen = np.stack([one.chosen for one in found])
    assert chosen.sum() / (40 * REAL.sum()) == pytest.approx(0.15, abs=0.005)
    tokens = np.stack([one.tokens for one in found])
    before = np.broadcast_to(TOKENS, tokens.shape)
    assert (tokens == 4)[chosen].mean() == pytest.approx(0.8, abs=0.01)
    other = chosen & (tokens != 4) & (tokens != before)
    assert other.sum() / chosen.sum() == pytest.approx(0.1 * 95 / 96, abs=0.01)
    np.testing.assert_array_equal(tokens[~chosen], before[~chosen])
    assert set(tokens[other].tolist()) == set(range(100)) - {0, 2, 3, 4}, "any ordinary token, evenly"
    assert not chosen[:, ~REAL].any()


def test_special_tokens_are_never_chosen():
    tokens = TOKENS.copy()
    tokens[:, ::7], tokens[:, 3] = 2, 4
    assert not mask(tokens, rate=0.99).chosen[(tokens == 2) | (tokens == 4)].any()


def test_a_rows_masks_depend_on_its_keys_and_not_on_its_batch():
    whole = mask()
    for row in (0, 7, 39):
        alone = mask(TOKENS[row : row + 1], REAL[row : row + 1], KEYS[row : row + 1])
        np.testing.assert_array_equal(alone.tokens[0], whole.tokens[row])
    for other in (mask(epoch=1), mask(seed=1), mask(keys=KEYS[:, ::-1] + 1)):
        assert (other.chosen != whole.chosen).any(axis=1).mean() > 0.9


def test_the_tokens_of_a_word_are_chosen_together():
    starts = np.arange(100) % 3 == 0
    tokens = TOKENS.copy()
    tokens[:, 20] = 2  # what follows a special token begins a word, whatever it is
    found = mask(tokens, word_starts=starts)
    begins = starts[tokens] | (tokens == 2)
    begins[:, 0] = begins[:, 21] = True
    word = np.cumsum(begins, axis=1)
    both = REAL[:, 1:] & (word[:, 1:] == word[:, :-1])
    assert both.sum() > 300
    np.testing.assert_array_equal(found.chosen[:, 1:][both], found.chosen[:, :-1][both])
    assert found.chosen.sum() / REAL.sum() == pytest.approx(0.15, abs=0.03)
