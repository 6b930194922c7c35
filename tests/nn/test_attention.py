import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.nn.attention import dot_product_attention
from transformer_jax.nn.mask import AttentionMask

ROWS, QUERIES, KEYS, HEADS, SIZE = 2, 5, 6, 2, 4
LENGTHS = np.array([6, 3])
SEGMENTS = np.array([[1, 1, 2, 2, 2, 3], [1, 2, 2, 2, 2, 2]])

MASKS = {
    "everything": (AttentionMask(), lambda b, q, k: True),
    "causal": (AttentionMask(causal=True), lambda b, q, k: k <= q),
    "lengths": (AttentionMask(key_lengths=jnp.asarray(LENGTHS)), lambda b, q, k: k < LENGTHS[b]),
    "window": (AttentionMask(window=(1, 2)), lambda b, q, k: q - 1 <= k <= q + 2),
    "segments": (
        AttentionMask(query_segments=jnp.asarray(SEGMENTS[:, :QUERIES]), key_segments=jnp.asarray(SEGMENTS)),
        lambda b, q, k: SEGMENTS[b, q] == SEGMENTS[b, k],
    ),
    "causal with positions": (
        AttentionMask(causal=True, query_positions=jnp.full((ROWS, QUERIES), 3)),
        lambda b, q, k: k <= 3,
    ),
}


@pytest.mark.parametrize("name", MASKS)
def test_attention_is_the_formula_computed_one_query_at_a_time(name):
    mask, sees = MASKS[name]
    random = np.random.default_rng(0)
    query = random.normal(size=(ROWS, QUERIES, HEADS, SIZE)).astype(np.float32)
    key, value = random.normal(size=(2, ROWS, KEYS, HEADS, SIZE)).astype(np.float32)
    result = jax.jit(dot_product_attention)(query, key, value, mask)
    for b in range(ROWS):
        for q in range(QUERIES):
            for h in range(HEADS):
                visible = [k for k in range(KEYS) if sees(b, q, k)]
                scores = np.array([query[b, q, h] @ key[b, k, h] for k in visible]) / SIZE**0.5
                weights = np.exp(scores) / np.exp(scores).sum()
                expected = sum(w * value[b, k, h] for w, k in zip(weights, visible, strict=True))
                np.testing.assert_allclose(result[b, q, h], expected, rtol=1e-5, atol=1e-5)


def test_a_row_with_nothing_to_see_is_finite():
    x = jnp.ones((1, 3, 1, 2))
    assert jnp.isfinite(dot_product_attention(x, x, x, AttentionMask(key_lengths=jnp.array([0])))).all()


def test_dropout_on_weights_keeps_their_mean():
    x = jnp.ones((1, 4, 1, 2))
    keys = jax.random.split(jax.random.key(0), 500)
    drop = jax.vmap(lambda key: dot_product_attention(x, x, x, AttentionMask(), dropout_rate=0.5, dropout_key=key))
    results = drop(keys)
    assert len(np.unique(results)) > 2
    np.testing.assert_allclose(results.mean(), 1, atol=0.05)
