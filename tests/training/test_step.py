"""One update: what it computes, what it may not depend on, and where its state lies."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.parameters import named_parameters, parameter_axes
from transformer_jax.parallel.axes import sharding
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.translation import Translation
from transformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from transformer_jax.training.step import (
    abstract_model,
    abstract_state,
    init_state,
    make_step,
    state_shardings,
)

# 21 tokens in a table of 24 rows: three rows stand for no token.
CONFIG = EncoderDecoderConfig(
    d_model=16, num_heads=2, d_ff=32, num_layers=2, dropout=0.0, vocab_size=21, source_vocab_size=21
)
NOISY = dataclasses.replace(CONFIG, dropout=0.1)
SGD = OptimizerConfig(name="sgd", schedule="constant", learning_rate=0.5, warmup_steps=1)
ADAM = dataclasses.replace(SGD, name="adam", learning_rate=0.01, warmup_steps=10)
LENGTHS = {"source": [7, 2, 5, 1, 3, 7, 4, 6], "target": [2, 6, 3, 6, 2, 4, 5, 3]}
KEY = jax.random.key(7)
ONE = MeshConfig(data=1)


def make_batch():
    """Rows of very different lengths, padded with tokens that may not matter."""
    rng = np.random.default_rng(0)
    batch = {name: rng.integers(1, 21, (8, max(of)), dtype=np.int32) for name, of in LENGTHS.items()}
    return batch | {f"{name}_length": np.asarray(of, np.int32) for name, of in LENGTHS.items()}


class Training:
    """A compiled step and its first state, of which every use takes a copy: the step reuses its memory."""

    def __init__(self, config, optimizer_config, accumulate=1):
        schedule = make_schedule(optimizer_config, config.d_model, 100)
        self.optimizer = make_optimizer(optimizer_config, parameter_axes(abstract_model(config)), schedule)
        self.step = make_step(Translation(), self.optimizer, schedule, accumulate)
        self.first = init_state(config, self.optimizer, 0, make_mesh(ONE))

    def state(self, step=0):
        return jax.tree.map(jnp.copy, self.first)._replace(step=jnp.asarray(step, jnp.int32))

    def __call__(self, batch, step=0, key=KEY):
        state, metrics = self.step(self.state(step), batch, key)
        return state, {name: float(value) for name, value in metrics.items()}


@pytest.fixture(scope="module")
def sgd():
    return Training(CONFIG, SGD)


@pytest.fixture(scope="module")
def noisy():
    return Training(NOISY, ADAM)


def assert_same(one, other):
    """Two results of a step agree in metrics and parameters."""
    (state, metrics), (expected_state, expected) = one, other
    assert metrics.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(metrics[name], expected[name], rtol=2e-6, err_msg=name)
    parameters = named_parameters(state.model)
    for name, value in named_parameters(expected_state.model).items():
        np.testing.assert_allclose(parameters[name], value, rtol=1e-5, atol=2e-6, err_msg=name)


def test_a_tied_embedding_stays_one_leaf_that_learns(noisy):
    before = named_parameters(noisy.first.model)
    state, _ = noisy(make_batch())
    after = named_parameters(state.model)
    assert after.keys() == before.keys()
    assert [name for name in after if name.endswith("table") or name.startswith("output")] == ["embedding/table"]
    assert jax.tree.structure(state) == jax.tree.structure(noisy.first)
    assert len(jax.tree.leaves(state.model)) == len(after)
    assert not np.array_equal(after["embedding/table"], before["embedding/table"])


def test_only_parameters_are_trained_and_all_of_them(noisy):
    before = named_parameters(noisy.first.model)
    after = named_parameters(noisy(make_batch())[0].model)
    padding = 3 * CONFIG.d_model
    assert sum(leaf.size for leaf in jax.tree.leaves(noisy.first.model)) == CONFIG.num_parameters() + padding
    assert [name for name in after if np.array_equal(after[name], before[name])] == []


def test_rows_that_pad_the_vocabulary_never_change(noisy):
    before = named_parameters(noisy.first.model)["embedding/table"]
    after = named_parameters(noisy(make_batch())[0].model)["embedding/table"]
    np.testing.assert_array_equal(after[21:], before[21:])
    assert np.all(np.any(after[:21] != before[:21], axis=1))


def test_micro_batches_of_unequal_weight_give_the_numbers_of_one_pass(sgd):
    assert_same(Training(CONFIG, SGD, accumulate=4)(make_batch()), sgd(make_batch()))


def test_micro_batches_drop_out_different_elements():
    twice = {name: np.repeat(value[:1], 2, axis=0) for name, value in make_batch().items()}
    once = {name: value[:1] for name, value in twice.items()}
    halves = Training(NOISY, SGD, accumulate=2)
    keys = jax.random.split(jax.random.fold_in(KEY, 0), 2)
    loss = jax.jit(Translation().loss)
    sums = [loss(halves.first.model, once, key)["loss"] for key in keys]
    assert not np.isclose(sums[0][0], sums[1][0])
    np.testing.assert_allclose(halves(twice)[1]["loss"], sum(s for s, _ in sums) / sum(w for _, w in sums), rtol=1e-5)


def test_the_loss_is_the_smoothed_cross_entropy_of_the_logits(sgd):
    batch = make_batch()
    inputs = [jnp.asarray(batch[name]) for name in ("source", "target", "source_length")]
    forward = jax.jit(lambda model, source, target, lengths: model(source, target, source_lengths=lengths))
    logits = np.asarray(forward(sgd.first.model, *inputs), np.float64)[..., :21]
    smoothed, plain, tokens = 0.0, 0.0, 0
    for row, length in enumerate(LENGTHS["target"]):
        for position in range(length - 1):
            scores = logits[row, position]
            log_p = scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())
            label = batch["target"][row, position + 1]
            wanted = np.full(21, 0.1 / 21)
            wanted[label] += 0.9
            smoothed, plain, tokens = smoothed - wanted @ log_p, plain - log_p[label], tokens + 1
    _, metrics = sgd(batch)
    assert metrics["tokens"] == tokens
    np.testing.assert_allclose([metrics["loss"], metrics["nll"]], [smoothed / tokens, plain / tokens], rtol=1e-5)


def test_sgd_goes_down_the_slope_that_the_gradients_norm_tells(sgd):
    batch, rate = make_batch(), 1e-3
    state, metrics = sgd(batch)
    nearby = jax.tree.map(lambda old, new: old + rate / 0.5 * (new - old), sgd.first.model, state.model)
    total, tokens = jax.jit(Translation().loss)(nearby, batch, None)["loss"]
    fall = rate * metrics["gradient_norm"] ** 2
    np.testing.assert_allclose(metrics["loss"] - total / tokens, fall, rtol=0.05)


def test_metrics_tell_the_learning_rate_that_was_used(noisy):
    state, metrics = noisy(make_batch())
    np.testing.assert_allclose(metrics["learning_rate"], 0.001, rtol=1e-6)
    np.testing.assert_allclose(noisy(make_batch(), step=4)[1]["learning_rate"], 0.005, rtol=1e-6)
    # Adam's first update moves every parameter by the learning rate.
    before, after = (named_parameters(of.model)["embedding/table"][:21] for of in (noisy.first, state))
    np.testing.assert_allclose(np.max(np.abs(after - before)), metrics["learning_rate"], rtol=1e-3)


def test_a_step_counts_itself(noisy):
    assert [int(noisy(make_batch(), step)[0].step) for step in (0, 4)] == [1, 5]


def test_dropout_differs_between_steps_and_repeats_for_the_same_step(noisy):
    losses = [noisy(make_batch(), step, key)[1]["loss"] for step, key in ((0, KEY), (1, KEY), (0, KEY))]
    assert losses[0] == losses[2]
    assert not np.isclose(losses[0], losses[1])
    assert not np.isclose(losses[0], noisy(make_batch(), 0, jax.random.key(8))[1]["loss"])


def test_evaluation_has_no_dropout(noisy, sgd):
    total, tokens = jax.jit(Translation().loss)(noisy.first.model, make_batch(), None)["loss"]
    np.testing.assert_allclose(total / tokens, sgd(make_batch())[1]["loss"], rtol=1e-5)


def test_the_states_memory_is_reused_without_a_warning(noisy):
    fresh, state = Training(NOISY, ADAM), noisy.state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after, _ = fresh.step(state, make_batch(), KEY)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(after))


def test_empty_rows_change_nothing(sgd):
    batch = make_batch()
    empty = {name: value[:4] * (value.ndim > 1) for name, value in batch.items()}
    assert_same(sgd({name: np.concatenate([batch[name], empty[name]]) for name in batch}), sgd(batch))


def test_a_batch_of_empty_rows_has_no_loss_and_no_gradient(sgd):
    state, metrics = sgd({name: np.zeros_like(value) for name, value in make_batch().items()})
    assert (metrics["loss"], metrics["gradient_norm"]) == (0, 0)
    before = named_parameters(sgd.first.model)
    for name, value in named_parameters(state.model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


def test_the_order_of_the_rows_changes_nothing(sgd):
    order = np.random.default_rng(1).permutation(8)
    batch = make_batch()
    assert_same(sgd({name: value[order] for name, value in batch.items()}), sgd(batch))


def test_tokens_behind_the_lengths_change_nothing(sgd):
    batch, other = make_batch(), make_batch()
    for name, lengths in LENGTHS.items():
        padding = np.arange(other[name].shape[1])[None] >= np.asarray(lengths)[:, None]
        other[name][padding] = 0
    assert_same(sgd(other), sgd(batch))


def test_the_same_seed_gives_the_same_first_state_and_another_seed_another(sgd):
    again, other = (init_state(CONFIG, sgd.optimizer, seed, make_mesh(ONE)).model for seed in (0, 1))
    for name, value in named_parameters(sgd.first.model).items():
        np.testing.assert_array_equal(named_parameters(again)[name], value)
    assert not np.allclose(named_parameters(other)["embedding/table"], named_parameters(again)["embedding/table"])


def test_the_abstract_state_is_the_first_state_without_its_numbers(noisy):
    abstract = abstract_state(NOISY, noisy.optimizer, make_mesh(ONE))
    assert jax.tree.structure(abstract) == jax.tree.structure(noisy.first)
    for wanted, leaf in zip(jax.tree.leaves(abstract), jax.tree.leaves(noisy.first), strict=True):
        assert (wanted.shape, wanted.dtype) == (leaf.shape, leaf.dtype)
        assert wanted.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")
@pytest.mark.parametrize("name", ["adam", "adafactor", "muon"])
def test_what_an_optimizer_keeps_lies_where_its_parameter_does_only_if_the_shapes_are_equal(name):
    config = dataclasses.replace(CONFIG, d_model=32, num_heads=8, d_ff=64, vocab_size=40)
    mesh = make_mesh(MeshConfig(data=1, fsdp=4, tensor=2))
    axes = parameter_axes(abstract_model(config))
    optimizer = make_optimizer(dataclasses.replace(ADAM, name=name), axes, make_schedule(ADAM, 32, 100))
    state = abstract_state(config, optimizer, mesh)
    where = state_shardings(state, mesh)
    shapes = {name: value.shape for name, value in named_parameters(state.model).items()}
    equal = different = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.optimizer):
        of = next((key.key for key in path if getattr(key, "key", None) in axes), None)
        if of is not None and leaf.shape == shapes[of]:
            equal += 1
            assert leaf.sharding == sharding(axes[of], mesh), of
        else:
            different += 1
            assert leaf.sharding.is_fully_replicated, path
    assert different and (equal > len(axes) if name == "adam" else equal)
    assert all(named_parameters(where.model)[name] == sharding(axes[name], mesh) for name in axes)
