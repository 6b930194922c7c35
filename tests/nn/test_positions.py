"""Positions against formulas written out in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transformer_jax.nn.positions import AlibiBias, RelativeBias, alibi_slopes, rotate

POSITIONS = np.array([[0, 1, 2, 5, 9, 40, 300]], np.int32)


def test_rotation_turns_every_pair_by_its_angle():
    x = np.random.default_rng(0).normal(size=(2, 7, 3, 8)).astype(np.float32)
    pairs = x[..., :4] + 1j * x[..., 4:]
    angles = POSITIONS[0][:, None] / 100.0 ** (np.arange(4) / 4)
    turned = pairs * np.exp(1j * angles)[None, :, None]
    expected = np.concatenate([turned.real, turned.imag], -1)
    np.testing.assert_allclose(rotate(jnp.asarray(x), jnp.asarray(POSITIONS), 100.0), expected, atol=2e-4)


def test_scores_of_rotated_vectors_know_only_distances():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))

    def score(p, q):
        at = [jnp.array([[position]]) for position in (p, q)]
        return float(jnp.sum(rotate(query, at[0]) * rotate(key, at[1])))

    assert score(3, 7) == pytest.approx(score(103, 107), abs=1e-4)
    assert abs(score(3, 7) - score(3, 8)) > 1e-3


def test_an_odd_head_has_no_rotation():
    with pytest.raises(ValueError, match="even head_dim"):
        rotate(jnp.zeros((1, 1, 1, 3)), jnp.zeros((1, 1), jnp.int32))


@pytest.mark.parametrize("causal", [True, False])
def test_relative_buckets_are_those_of_t5(causal):
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5", reason="needs transformers")
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    bias = RelativeBias(4, causal=causal, rngs=nnx.Rngs(0))
    query, key = np.arange(300, dtype=np.int32)[None, ::7], np.arange(300, dtype=np.int32)[None]
    distance = torch.tensor(key[0][None, :] - query[0][:, None])
    buckets = modeling.T5Attention._relative_position_bucket(distance, not causal, 32, 128).numpy()
    expected = np.moveaxis(np.asarray(bias.table[...])[buckets], -1, 0)[None]
    np.testing.assert_array_equal(bias(jnp.asarray(query), jnp.asarray(key)), expected)


def test_slopes_are_a_geometric_sequence_and_what_lies_between():
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    np.testing.assert_allclose(alibi_slopes(3), [2**-4, 2**-8, 2**-2])


def test_scores_fall_with_distance_at_each_heads_slope():
    bias = AlibiBias(8, causal=True, rngs=nnx.Rngs(0))(jnp.array([[5]]), jnp.array([[5, 3, 0]]))
    np.testing.assert_allclose(bias[0, 1, 0], [0, -0.5, -1.25])
