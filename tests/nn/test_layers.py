import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transformer_jax.nn.feed_forward import FeedForward
from transformer_jax.nn.layer import LayerConfig, TransformerLayer
from transformer_jax.nn.linear import dropout
from transformer_jax.nn.norm import LayerNorm, RMSNorm
from transformer_jax.nn.positions import sinusoidal_positions

X = jnp.asarray(np.random.default_rng(0).normal(2, 3, size=(2, 3, 8)).astype(np.float32))


def test_sinusoids_are_those_of_section_3_5():
    table = sinusoidal_positions(jnp.arange(50), 8)
    for position in range(50):
        for i in range(4):
            angle = position / 10000 ** (2 * i / 8)
            assert math.isclose(table[position, 2 * i], math.sin(angle), abs_tol=1e-5)
            assert math.isclose(table[position, 2 * i + 1], math.cos(angle), abs_tol=1e-5)


def test_norms_are_their_formulas_in_float32():
    x = np.asarray(X)
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    np.testing.assert_allclose(LayerNorm(8, epsilon=0.1)(X), (x - mean) / np.sqrt(variance + 0.1), rtol=1e-5, atol=1e-5)
    rms = np.sqrt((x**2).mean(-1, keepdims=True) + 0.1)
    np.testing.assert_allclose(RMSNorm(8, epsilon=0.1)(X), x / rms, rtol=1e-5, atol=1e-5)
    large = (X + 1000).astype(jnp.bfloat16)
    exact = LayerNorm(8)(large.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(LayerNorm(8)(large), exact)


@pytest.mark.parametrize("placement", ["post", "pre"])
def test_residuals_are_where_the_placement_says(placement):
    config = LayerConfig(d_model=8, num_heads=2, d_ff=16, norm_placement=placement)
    layer = TransformerLayer(config, rngs=nnx.Rngs(0))
    attend, feed, norm = layer.self_attention, layer.feed_forward, layer.self_attention_norm
    assert norm is not None
    if placement == "post":
        y = norm(X + attend(X))
        expected = layer.feed_forward_norm(y + feed(y))
    else:
        y = X + attend(norm(X))
        expected = y + feed(layer.feed_forward_norm(y))
    np.testing.assert_allclose(layer(X), expected, rtol=1e-5, atol=1e-5)


def test_gated_feed_forward_multiplies_its_branches():
    module = FeedForward(8, 16, activation="silu", gated=True, rngs=nnx.Rngs(0))
    assert module.gate is not None
    expected = module.output(jax.nn.silu(module.gate(X)) * module.input(X))
    np.testing.assert_allclose(module(X), expected, rtol=1e-6)


def test_dropout_zeroes_a_share_and_keeps_the_mean():
    x = jnp.ones((100, 100))
    y = dropout(x, 0.3, jax.random.key(0))
    assert abs((y == 0).mean() - 0.3) < 0.02 and abs(y.mean() - 1) < 0.03
    assert dropout(x, 0.3, None) is x
