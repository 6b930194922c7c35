"""Factors of low rank: what they learn, what they leave alone, and that they are merged."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transformer_jax.models.encoder_only import bert
from transformer_jax.nn.parameters import named_parameters, parameter_axes, replace_parameters
from transformer_jax.training.lora import LoraConfig, factor_names, merge
from transformer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule, untrained
from transformer_jax.training.step import abstract_model

MODEL = bert(
    vocab_size=24, d_model=16, num_heads=2, d_ff=32, num_layers=3, max_length=8, dropout=0.0, attention_bias=False
)
LORA = LoraConfig(rank=2, alpha=6.0, names=("*/query/kernel", "*/self_attention/output/kernel", "head/*/kernel"))
# A large epsilon: Adam would make a direction of the rounding errors of gradients that are zero.
CONFIG = OptimizerConfig(schedule="constant", learning_rate=1e-2, warmup_steps=1, epsilon=1e-4, lora=LORA)
AXES = parameter_axes(abstract_model(MODEL))
ADAPTED = ["encoder/layers/self_attention/output/kernel", "encoder/layers/self_attention/query/kernel"]
ADAPTED += ["head/transform/kernel"]
TOKENS = np.random.default_rng(0).integers(0, 24, (4, 8)).astype(np.int32)


def start(config, seed=0):
    optimizer: Any = make_optimizer(config, AXES, make_schedule(config, 16, 10), seed=seed)
    parameters = named_parameters(MODEL.build(0))
    return optimizer, parameters, optimizer.init(parameters)


def loss(parameters):
    logits = replace_parameters(MODEL.build(0), parameters)(jnp.asarray(TOKENS))
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, TOKENS))


def learn(config, steps=4):
    """The first parameters, the last ones, and the optimizer's state."""
    optimizer, first, state = start(config)

    @jax.jit
    def step(parameters, state):
        updates, state = optimizer.update(jax.grad(loss)(parameters), state, parameters)
        return optax.apply_updates(parameters, updates), state

    parameters = first
    for _ in range(steps):
        parameters, state = step(parameters, state)
    return first, parameters, state


@pytest.mark.parametrize(
    "changes", [pytest.param({}, marks=pytest.mark.slow), {"name": "adamw", "weight_decay": 0.1, "clip_norm": 0.1}]
)
def test_factors_learn_what_they_would_learn_by_differentiating_through_the_merged_weights(changes):
    config = replace(CONFIG, **changes)
    first, found, state = learn(config)
    weights: Any = {name: first[name] for name in ADAPTED}
    trained: Any = {name: value for name, value in first.items() if name not in weights}
    trained |= start(config)[2].factors
    inner: Any = make_optimizer(
        replace(config, lora=LoraConfig()),
        {name: AXES.get(name, ("inputs", "rank")) for name in trained},
        make_schedule(config, 16, 10),
    )

    def merged(trained):
        others = {name: value for name, value in trained.items() if name in first}
        return others | merge(weights, trained, LORA)

    inner_state, gradient_at = inner.init(trained), jax.jit(jax.grad(lambda trained: loss(merged(trained))))
    for _ in range(4):
        gradient = gradient_at(trained)
        updates, inner_state = inner.update(gradient, inner_state, trained)
        trained = optax.apply_updates(trained, updates)
    for name, value in merged(trained).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=2e-5, err_msg=name)
    for name, value in state.factors.items():
        np.testing.assert_allclose(value, trained[name], rtol=1e-4, atol=2e-5, err_msg=name)


def test_each_layer_changes_by_a_matrix_of_the_rank_and_the_first_step_begins_at_the_old_weights():
    first, last, state = learn(CONFIG)
    for name in ADAPTED:
        change = np.asarray(last[name] - first[name])
        layers = change if name.startswith("encoder") else change[None]
        for layer in layers:
            rows = layer.reshape(16, 16)
            assert np.linalg.matrix_rank(rows, tol=1e-5) == 2
        a, b = factor_names(name)
        assert state.factors[a].shape[-1] == state.factors[b].shape[-2] == 2
    start_state = start(CONFIG)[2]
    beginning = merge(start_state.weights, start_state.factors, LORA)
    for name in ADAPTED:
        np.testing.assert_array_equal(beginning[name], first[name])


def test_factors_depend_on_the_seed_and_differ_between_weights_and_layers():
    factors, others = start(CONFIG)[2].factors, start(CONFIG, seed=1)[2].factors
    query, output = (np.asarray(factors[f"{name}/lora_a"]) for name in ADAPTED[:2])
    assert 0.15 < query.std() < 0.35, "a variance of 1 / inputs"
    assert not np.allclose(query, np.asarray(others[f"{ADAPTED[0]}/lora_a"]))
    assert not np.allclose(query, output) and not np.allclose(query[0], query[1])


def test_everything_but_adapted_weights_and_the_head_is_frozen():
    others = {name for name in AXES if not name.startswith("head") and name not in ADAPTED}
    assert set(untrained(CONFIG, AXES)) == others
    lora = replace(LORA, trained=("embedding/*", "head/*"))
    frozen = untrained(replace(CONFIG, frozen=("head/bias",), lora=lora), AXES)
    assert "embedding/table" not in frozen and "head/bias" in frozen and "head/norm/scale" not in frozen
    assert not set(frozen) & set(ADAPTED)


@pytest.mark.parametrize(
    "optimizer", ["muon", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lion", "adafactor", "sgd"))]
)
def test_every_optimizer_can_move_factors(optimizer):
    first, last, _ = learn(replace(CONFIG, name=optimizer), steps=2)
    assert all(np.isfinite(value).all() for value in last.values())
    assert all(np.abs(last[name] - first[name]).max() > 0 for name in ADAPTED)


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        (LoraConfig(rank=-1), "optimizer.lora.rank must be at least 0"),
        (LoraConfig(rank=17), "lora.rank 17 is more than .* has: 16 x 16"),
        (LoraConfig(rank=1, alpha=0.0), "optimizer.lora.alpha must be above 0"),
        (LoraConfig(rank=1, names=("*/token_types",)), "encoder_input/token_types, which is no linear map"),
        (LoraConfig(rank=1, names=("*/nothing",)), r"no parameter is called \*/nothing"),
        (LoraConfig(rank=1, names=("embedding/table",)), "embedding/table, which is no linear map"),
        (LoraConfig(rank=1, names=("*/norm/scale",)), "norm/scale, which is no linear map"),
    ],
)
def test_what_cannot_be_adapted_is_refused(lora, words):
    with pytest.raises(ValueError, match=words):
        start(replace(CONFIG, lora=lora))
