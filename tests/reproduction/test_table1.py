"""The layers of table 1."""

import jax
import numpy as np
import pytest

from transformer_jax.reproduction.table1 import Sizes, draw, layers, measure, power, table

SMALL = Sizes(lengths=(16, 32), width=8, heads=2, neighbourhood=8, calls=1)


def outputs(x):
    found = {}
    for layer in layers(SMALL):
        weights = {
            name: 0.3 * jax.random.normal(jax.random.key(i), shape)
            for i, (name, shape) in enumerate(layer.shapes.items())
        }
        found[layer.name] = layer.apply(weights, x)
    return found


def test_restricted_attention_in_blocks_is_that_of_a_window():
    found = outputs(jax.random.normal(jax.random.key(9), (32, 8)))
    np.testing.assert_allclose(found["restricted by blocks"], found["restricted by a window"], rtol=1e-5, atol=1e-5)
    assert np.abs(found["restricted by blocks"] - found["self-attention"]).max() > 0.01


def test_vectors_see_as_far_as_the_paper_says():
    x = jax.random.normal(jax.random.key(9), (32, 8))
    before, after = outputs(x), outputs(x.at[8].add(1.0))
    seen = {name: np.flatnonzero(np.abs(after[name] - before[name]).max(axis=1) > 1e-6).tolist() for name in before}
    assert seen["self-attention"] == [*range(32)]
    assert seen["convolution"] == [7, 8, 9]
    assert seen["restricted by blocks"] == seen["restricted by a window"] == [*range(4, 13)]
    assert seen["recurrent"][0] == 8 and len(seen["recurrent"]) > 3


def test_every_layer_is_measured_at_every_length(tmp_path):
    measured = list(measure(SMALL))
    assert len(measured) == 10 and all(line["milliseconds"] > 0 for line in measured)
    rows = table(measured, SMALL, "MiB")
    assert [row["complexity"] for row in rows] == ["O(n² d)", "O(n d²)", "O(k n d²)", "O(r n d)", "O(r n d)"]
    assert list(rows[0])[-3:] == ["n = 16", "n = 32", "grows as n^"]
    assert draw(measured, SMALL, tmp_path / "table1.png").read_bytes().startswith(b"\x89PNG")


def test_the_power_is_that_of_the_last_three_lengths():
    assert power({16: 100.0, 32: 1.0, 64: 4.0, 128: 16.0}) == pytest.approx(2)
    assert power({16: 1.0, 32: None}) is None
    with pytest.raises(ValueError, match="multiples of the neighbourhood 64"):
        Sizes(lengths=(100,))
