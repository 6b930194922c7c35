import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transformer_jax.nn.config import PLACEMENTS, LayerConfig
from transformer_jax.nn.feed_forward import FeedForward
from transformer_jax.nn.layer import TransformerLayer
from transformer_jax.nn.linear import Linear, dropout
from transformer_jax.nn.norm import LayerNorm, RMSNorm
from transformer_jax.nn.parameters import named_parameters, replace_parameters
from transformer_jax.nn.positions import Sinusoidal, sinusoids
from transformer_jax.nn.stack import Stack

X = jnp.asarray(np.random.default_rng(0).normal(2, 3, size=(2, 3, 8)).astype(np.float32))


def test_other_sinusoids_are_those_of_marian_and_fairseq():
    marian = sinusoids(jnp.arange(9), 8, interleaved=False)
    np.testing.assert_array_equal(marian, sinusoids(jnp.arange(9), 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]])
    rates = np.exp(-np.log(10_000) * np.arange(4) / 3)
    angles = (np.arange(9)[:, None] + 2) * rates
    fairseq = Sinusoidal(interleaved=False, inclusive=True, offset=2).add(jnp.zeros((1, 9, 8)), jnp.arange(9)[None], {})
    np.testing.assert_allclose(fairseq[0], np.concatenate([np.sin(angles), np.cos(angles)], 1), atol=1e-5)


def test_sinusoids_are_those_of_section_3_5():
    table = sinusoids(jnp.arange(50), 8)
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


@pytest.mark.parametrize("key", [None, jax.random.key(3)], ids=["evaluation", "dropout"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_norms_residuals_and_dropout_are_where_the_placement_says(placement, key):
    config = LayerConfig(d_model=8, num_heads=2, d_ff=16, dropout=0.4, norm_placement=placement)
    layer = TransformerLayer(config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    noisy = {name: value + rng.normal(size=value.shape) for name, value in named_parameters(layer).items()}
    layer = replace_parameters(layer, jax.tree.map(jnp.float32, noisy))
    _, one, _, _, two = [None] * 5 if key is None else jax.random.split(key, 5)

    def attend(x):
        return dropout(layer.self_attention(x)[0], 0.4, one)

    def feed(x):
        return dropout(layer.feed_forward(x), 0.4, two)

    first, second = layer.self_attention_norm, layer.feed_forward_norm
    behind_first, behind_second = layer.self_attention_output_norm, layer.feed_forward_output_norm
    if placement == "post":
        y = first(X + attend(X))
        expected = second(y + feed(y))
    elif placement == "pre":
        y = X + attend(first(X))
        expected = y + feed(second(y))
    elif placement == "both":
        y = X + behind_first(attend(first(X)))
        expected = y + behind_second(feed(second(y)))
    else:
        y = X + behind_first(attend(X))
        expected = y + behind_second(feed(y))
    np.testing.assert_allclose(layer(X, key=key)[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cross_attention", [False, True])
def test_every_sub_layer_of_every_layer_draws_dropout_of_its_own(cross_attention):
    described: dict[str, Any] = {"dropout": 0.5, "norm_placement": "pre", "attention_bias": True}
    config = LayerConfig(num_layers=3, d_model=32, num_heads=2, d_ff=8, **described)
    stack = Stack(config, cross_attention=cross_attention, rngs=nnx.Rngs(0))
    # Every sub-layer puts out ones, so a layer adds 0 or 2 for each of its sub-layers.
    constant = {
        name: jnp.full_like(value, name.endswith("output/bias")) for name, value in named_parameters(stack).items()
    }
    stack, nothing = replace_parameters(stack, constant), jnp.zeros((1, 40, 32))
    *_, inside = stack(nothing, nothing if cross_attention else None, key=jax.random.key(0), intermediates=True)
    added = np.diff(inside.hidden, axis=0, prepend=0)
    sub_layers = 3 if cross_attention else 2
    values, counts = np.unique(added, return_counts=True)
    np.testing.assert_array_equal(values, 2 * np.arange(sub_layers + 1))
    shares = [math.comb(sub_layers, k) / 2**sub_layers for k in range(sub_layers + 1)]
    np.testing.assert_allclose(counts / added.size, shares, atol=0.04)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(added[one].ravel(), added[other].ravel())[0, 1]) < 0.1


def test_gradients_of_biases_are_summed_in_float32():
    linear = Linear((4,), (3,), ("embed", "mlp"), dtype="bfloat16", rngs=nnx.Rngs(0))
    gradient = jax.grad(lambda linear: jnp.sum(linear(jnp.ones((5000, 4))).astype(jnp.float32)))(linear)
    np.testing.assert_array_equal(gradient.bias[...], 5000)


def test_gated_feed_forward_multiplies_its_branches():
    module = FeedForward(LayerConfig(d_model=8, d_ff=16, activation="silu", gated=True), rngs=nnx.Rngs(0))
    assert module.gate is not None
    expected = module.output(jax.nn.silu(module.gate(X)) * module.input(X))
    np.testing.assert_allclose(module(X), expected, rtol=1e-6)


def test_dropout_zeroes_a_share_and_keeps_the_mean():
    x = jnp.ones((100, 100))
    y = dropout(x, 0.3, jax.random.key(0))
    assert abs((y == 0).mean() - 0.3) < 0.02 and abs(y.mean() - 1) < 0.03
    assert dropout(x, 0.3, None) is x


def test_gradients_of_weights_are_summed_in_float32_under_bfloat16():
    layer = Linear((8,), (2, 3), ("embed", "heads", "head_dim"), dtype="bfloat16", rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 1000, 8)).astype(np.float32)
    upstream = jnp.asarray(rng.normal(size=(4, 1000, 2, 3)), jnp.bfloat16)
    gradient = jax.grad(lambda layer: jnp.sum((layer(jnp.asarray(x)) * upstream).astype(jnp.float32)))(layer)
    rounded = np.asarray(jnp.asarray(x, jnp.bfloat16), np.float64)
    expected = np.einsum("bld,blhe->dhe", rounded, np.asarray(upstream, np.float64))
    np.testing.assert_allclose(gradient.kernel[...], expected, rtol=1e-4, atol=1e-3)
    assert gradient.kernel[...].dtype == jnp.float32
