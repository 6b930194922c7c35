"""Positions against formulas written out in loops, and against transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transformer_jax.nn.initializers import PAPER
from transformer_jax.nn.positions import Alibi, Relative, Rotary, Sizes, TokenPositions, alibi_slopes
from transformer_jax.nn.rotary_scaling import Dynamic, Interpolation, Llama3, RotaryScaling, Yarn

PLACES = np.array([[0, 1, 2, 5, 9, 40, 300]], np.int32)
X = np.random.default_rng(0).normal(size=(2, 7, 3, 8)).astype(np.float32)


def turned(x, places, kind=None):
    sizes = Sizes(d_model=24, num_heads=3, head_dim=x.shape[-1], max_length=512, causal=False)
    return TokenPositions(kind or Rotary(), jnp.asarray(places), sizes, {}).rotate(jnp.asarray(x), "query")


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_rotation_turns_every_pair_by_its_angle(interleaved, fraction):
    size = int(8 * fraction)
    first, second = (
        (slice(0, size, 2), slice(1, size, 2)) if interleaved else (slice(size // 2), slice(size // 2, size))
    )
    angles = PLACES[0][:, None] / 100.0 ** (np.arange(size // 2) / (size // 2))
    pairs = (X[..., first] + 1j * X[..., second]) * np.exp(1j * angles)[None, :, None]
    expected = X.copy()
    expected[..., first], expected[..., second] = pairs.real, pairs.imag
    kind = Rotary(base=100.0, fraction=fraction, interleaved=interleaved)
    np.testing.assert_allclose(turned(X, PLACES, kind), expected, atol=2e-4)


def test_scores_of_rotated_vectors_know_only_distances():
    query, key = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 16))

    def score(p, q):
        return float(jnp.sum(turned(query, [[p]]) * turned(key, [[q]])))

    assert score(3, 7) == pytest.approx(score(103, 107), abs=1e-4)
    assert abs(score(3, 7) - score(3, 8)) > 1e-3


def test_an_odd_head_has_no_rotation():
    with pytest.raises(ValueError, match="head_dim that 2 divides"):
        turned(np.zeros((1, 1, 1, 3), np.float32), [[0]])


LENGTH = 64
SCALINGS = {
    "linear": (Interpolation(factor=4.0), {"factor": 4.0}),
    "dynamic": (Dynamic(factor=2.0, original_length=LENGTH), {"factor": 2.0}),
    "llama3": (
        Llama3(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_length=LENGTH),
        {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": LENGTH},
    ),
    "yarn": (Yarn(factor=4.0, original_length=LENGTH), {"factor": 4.0, "original_max_position_embeddings": LENGTH}),
}


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("longest", [LENGTH - 1, 4 * LENGTH])
def test_scaled_angles_are_those_of_transformers_within_and_beyond_the_trained_length(name, longest):
    llama = pytest.importorskip("transformers.models.llama", reason="needs transformers")
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    ours, theirs = SCALINGS[name]
    config = llama.LlamaConfig(
        hidden_size=64,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        rope_parameters={"rope_type": name, "rope_theta": 10_000.0, **theirs},
    )
    places = np.array([[0, 1, 17, longest]])
    rotary = llama.modeling_llama.LlamaRotaryEmbedding(config)
    cosine, sine = rotary(torch.zeros(1, 4, 64), torch.tensor(places))
    sizes = Sizes(d_model=64, num_heads=2, head_dim=32, max_length=512, causal=False)
    found = Rotary(scaling=ours).tables(jnp.asarray(places, jnp.int32), sizes, {})
    for mine, other in zip(found, (sine, cosine), strict=True):
        np.testing.assert_allclose(mine[:, :, 0], other.numpy()[..., :16], atol=1e-4)
    if longest > LENGTH:
        plain = Rotary(scaling=RotaryScaling()).tables(jnp.asarray(places, jnp.int32), sizes, {})
        assert np.abs(plain[0] - found[0]).max() > 0.1


@pytest.mark.parametrize("causal", [True, False])
def test_relative_buckets_are_those_of_t5(causal):
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5", reason="needs transformers")
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    sizes = Sizes(d_model=16, num_heads=4, head_dim=4, max_length=512, causal=causal)
    table = Relative().attention_parameters(sizes, PAPER, nnx.Rngs(0))["table"][...]
    query, key = np.arange(300, dtype=np.int32)[None, ::7], np.arange(300, dtype=np.int32)[None]
    distance = torch.tensor(key[0][None, :] - query[0][:, None])
    buckets = modeling.T5Attention._relative_position_bucket(distance, not causal, 32, 128).numpy()
    expected = np.moveaxis(np.asarray(table)[buckets], -1, 0)[None]
    found = Relative().bias(jnp.asarray(query), jnp.asarray(key), sizes, {"table": table})
    np.testing.assert_array_equal(found, expected)


def test_slopes_are_a_geometric_sequence_and_what_lies_between():
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    np.testing.assert_allclose(alibi_slopes(3), [2**-4, 2**-8, 2**-2])


def test_scores_fall_with_distance_at_each_heads_slope():
    sizes = Sizes(d_model=16, num_heads=8, head_dim=2, max_length=512, causal=True)
    bias = Alibi().bias(jnp.array([[5]]), jnp.array([[5, 3, 0]]), sizes, {})
    assert bias is not None
    np.testing.assert_allclose(bias[0, 1, 0], [0, -0.5, -1.25])


def test_dynamic_angles_of_a_row_do_not_depend_on_its_neighbours():
    sizes = Sizes(d_model=16, num_heads=2, head_dim=8, max_length=64, causal=True)
    kind = Rotary(scaling=Dynamic(factor=2.0, original_length=4))
    both = kind.tables(jnp.array([[0, 1, 2], [7, 8, 9]]), sizes, {})
    for row, places in enumerate(([0, 1, 2], [7, 8, 9])):
        alone = kind.tables(jnp.array([places]), sizes, {})
        np.testing.assert_allclose(both[0][row], alone[0][0], rtol=1e-6)
