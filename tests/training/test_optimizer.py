"""Learning-rate schedules, and optimizers that see axes instead of array ranks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from transformer_jax.nn.layer_names import layer_numbers
from transformer_jax.training.optimizer import OPTIMIZERS, SCHEDULES, OptimizerConfig, make_optimizer, make_schedule

# What a stack of 3 layers holds, and an embedding. Sizes from 32 on are those that Adafactor factors.
AXES = {
    "layers/query/kernel": ("layers", "embed", "heads", "head_dim"),
    "layers/output/kernel": ("layers", "heads", "head_dim", "embed"),
    "layers/inner/kernel": ("layers", "embed", "mlp"),
    "layers/inner/bias": ("layers", "mlp"),
    "layers/query/bias": ("layers", "heads", "head_dim"),
    "layers/norm/scale": ("layers", "embed"),
    "norm/scale": ("embed",),
    "embedding/table": ("vocab", "embed"),
}
SIZES = {"layers": 3, "embed": 32, "heads": 4, "head_dim": 10, "mlp": 48, "vocab": 50}
MATRICES = {"layers/query/kernel", "layers/output/kernel", "layers/inner/kernel", "embedding/table"}


def arrays(seed):
    """An array for every parameter; layers differ in scale, so that what mixes them is seen."""
    rng = np.random.default_rng(seed)
    values = {name: rng.normal(size=[SIZES[axis] for axis in of]) for name, of in AXES.items()}
    scale = np.asarray([1.0, 30.0, 0.01])
    for name, of in AXES.items():
        if of[0] == "layers":
            values[name] *= scale.reshape(-1, *[1] * (len(of) - 1))
    return {name: value.astype(np.float32) for name, value in values.items()}


PARAMETERS, GRADIENTS = arrays(0), [arrays(seed) for seed in range(1, 4)]


def constant(name, **changes):
    return OptimizerConfig(name=name, schedule="constant", learning_rate=0.1, warmup_steps=1, **changes)


def optimize(config, axes, parameters, gradients):
    """The parameters after one update for each gradient."""
    numbers = layer_numbers({name: value.shape for name, value in parameters.items()})
    optimizer = make_optimizer(config, axes, make_schedule(config, SIZES["embed"], len(gradients)), numbers=numbers)

    @jax.jit
    def update(parameters, state, gradient):
        updates, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state

    state = jax.jit(optimizer.init)(parameters)
    for gradient in gradients:
        parameters, state = update(parameters, state, gradient)
    return jax.tree.map(np.asarray, parameters)


def rates(config, d_model=512, steps=100):
    return np.asarray(jax.jit(jax.vmap(make_schedule(config, d_model, steps)))(jnp.arange(steps)))


@pytest.mark.parametrize(("d_model", "warmup"), [(512, 40), (1024, 7)])
def test_the_default_schedule_is_the_papers_formula_from_the_first_step(d_model, warmup):
    step = np.arange(1, 101, dtype=np.float64)
    expected = d_model**-0.5 * np.minimum(step**-0.5, step * warmup**-1.5)
    np.testing.assert_allclose(rates(OptimizerConfig(warmup_steps=warmup), d_model), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", SCHEDULES)
def test_every_schedule_rises_linearly_to_the_given_rate(shape):
    rate = rates(OptimizerConfig(schedule=shape, learning_rate=0.3, warmup_steps=20))
    np.testing.assert_allclose(rate[:20], 0.3 * np.arange(1, 21) / 20, rtol=1e-6)
    assert rate.argmax() == 19


@pytest.mark.parametrize(
    ("shape", "middle", "end"),
    [("constant", 1, 1), ("cosine", 0.5, 0), ("linear", 0.5, 0), ("inverse_sqrt", (20 / 60) ** 0.5, (20 / 100) ** 0.5)],
)
def test_schedules_have_their_shape_in_the_middle_and_at_the_end(shape, middle, end):
    rate = rates(OptimizerConfig(schedule=shape, learning_rate=0.3, warmup_steps=20))
    np.testing.assert_allclose(rate[[59, 99]], [0.3 * middle, 0.3 * end], rtol=1e-5, atol=1e-7)


def test_warmup_stable_decay_holds_its_rate_and_falls_evenly_over_its_last_share():
    config = OptimizerConfig(schedule="warmup_stable_decay", learning_rate=0.3, warmup_steps=20, decay_share=0.25)
    rate = rates(config)
    np.testing.assert_allclose(rate[19:80], 0.3, rtol=1e-6)
    np.testing.assert_allclose(rate[79:], np.linspace(0.3, 0, 21), rtol=1e-5, atol=1e-7)


def test_a_cosine_falls_slowly_first_and_a_line_evenly():
    quarter = [rates(OptimizerConfig(schedule=s, learning_rate=1.0, warmup_steps=20))[39] for s in ("cosine", "linear")]
    np.testing.assert_allclose(quarter, [(1 + np.cos(np.pi / 4)) / 2, 0.75], rtol=1e-5)


def test_schedule_steps_replace_the_length_of_training():
    short = OptimizerConfig(schedule="linear", learning_rate=0.3, warmup_steps=20, schedule_steps=60)
    np.testing.assert_allclose(rates(short)[[39, 59, 99]], [0.15, 0, 0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "adafactor"])
def test_weight_decay_shrinks_matrices_and_leaves_norms_and_biases_alone(name):
    # A stack's biases and norms are arrays of rank 2 and 3, and still no matrices.
    none = [jax.tree.map(np.zeros_like, PARAMETERS)]
    after = optimize(constant(name, weight_decay=0.5), AXES, PARAMETERS, none)
    for key, before in PARAMETERS.items():
        kept = 1 - 0.1 * 0.5 if key in MATRICES else 1.0
        np.testing.assert_allclose(after[key], before * np.float32(kept), rtol=1e-6, err_msg=key)


def test_adafactor_factors_linear_maps_and_no_bias_however_its_heads_are_shaped():
    axes = {"kernel": ("layers", "embed", "heads", "head_dim"), "bias": ("layers", "heads", "head_dim")}
    shapes = {"kernel": (2, 64, 32, 32), "bias": (2, 32, 32)}
    config = constant("adafactor")
    optimizer = make_optimizer(config, axes, make_schedule(config, 64, 100))
    state = jax.eval_shape(optimizer.init, {name: jax.ShapeDtypeStruct(shapes[name], jnp.float32) for name in axes})
    kept = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert (2, 1024) in kept and (2, 64) in kept and (2, 32) not in kept and (2, 32, 32) not in kept


def as_layers(tree):
    """The stack's parameters, each layer by itself and every linear map a matrix."""
    split = {}
    for name, value in tree.items():
        of = AXES[name]
        if of[0] != "layers":
            split[name] = value
            continue
        for i in range(SIZES["layers"]):
            layer = value[i]
            if layer.ndim == 3:
                layer = layer.reshape((40, 32) if of[1] == "heads" else (32, 40))
            split[f"{i}/{name}"] = layer
    return split


LAYER_AXES = {
    "query/kernel": ("embed", "mlp"),
    "output/kernel": ("mlp", "embed"),
    "inner/kernel": ("embed", "mlp"),
    "inner/bias": ("mlp",),
    "query/bias": ("heads", "head_dim"),
    "norm/scale": ("embed",),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_stack_is_optimized_like_its_layers_alone_and_split_heads_like_the_flat_matrix(name):
    decay = 0.0 if name in ("adam", "sgd") else 0.1
    config = constant(name, weight_decay=decay)
    parameters = as_layers(PARAMETERS)
    axes = {key: AXES.get(key) or LAYER_AXES[key.partition("layers/")[2]] for key in parameters}
    alone = optimize(config, axes, parameters, [as_layers(gradient) for gradient in GRADIENTS])
    together = as_layers(optimize(config, AXES, PARAMETERS, GRADIENTS))
    assert together.keys() == alone.keys()
    for key, value in together.items():
        moved, expected = value - parameters[key], alone[key] - parameters[key]
        tolerance = 1e-4 * np.abs(expected).max()
        assert tolerance > 0, key
        np.testing.assert_allclose(moved, expected, atol=tolerance, rtol=1e-3, err_msg=key)


def test_muon_makes_the_update_of_a_layers_matrix_nearly_orthogonal():
    after = optimize(constant("muon"), AXES, PARAMETERS, GRADIENTS[:1])
    for name in ("layers/query/kernel", "layers/inner/kernel", "layers/output/kernel"):
        rows = 40 if AXES[name][1] == "heads" else 32
        moved = (after[name] - PARAMETERS[name]).reshape(3, rows, -1)
        values = np.linalg.svd(np.asarray(moved), compute_uv=False)
        assert values.min() > 0.5 * values.max(), name


def test_muon_mixes_the_elements_of_layers_matrices_and_never_those_of_embeddings_norms_and_biases():
    gradient = GRADIENTS[0]
    other = {name: value.copy() for name, value in gradient.items()}
    for value in other.values():
        value.flat[0] += 3 * np.abs(value).max()
    # A first update of Adam sees nothing but signs; the second tells.
    start = [gradient, gradient], [gradient, other]
    one, two = (optimize(constant("muon"), AXES, PARAMETERS, gradients) for gradients in start)
    changed = {name: int(np.sum(one[name] != two[name])) for name in AXES}
    for name, count in changed.items():
        if name in MATRICES - {"embedding/table"}:
            assert count > one[name][0].size / 2, name
        else:
            assert count == 1, name


def test_adam_is_pytorchs():
    torch = pytest.importorskip("torch", reason="PyTorch, the implementation to compare with, is not installed")
    config = constant("adam")
    start, gradients = PARAMETERS["layers/inner/kernel"], [g["layers/inner/kernel"] for g in GRADIENTS + GRADIENTS[:2]]
    theirs = torch.tensor(np.asarray(start), requires_grad=True)
    adam = torch.optim.Adam([theirs], lr=0.1, betas=(config.b1, config.b2), eps=config.epsilon)
    for gradient in gradients:
        theirs.grad = torch.tensor(np.asarray(gradient))
        adam.step()
    axes = {"kernel": ("layers", "embed", "mlp")}
    ours = optimize(config, axes, {"kernel": start}, [{"kernel": gradient} for gradient in gradients])
    np.testing.assert_allclose(ours["kernel"], theirs.detach().numpy(), rtol=1e-5, atol=1e-5)


def test_clip_norm_shortens_long_gradients_and_leaves_short_ones():
    parameters, axes = {"a": jnp.zeros(2), "b": jnp.zeros(1)}, {"a": ("embed",), "b": ("embed",)}
    gradient = {"a": jnp.asarray([2.0, 3.0]), "b": jnp.asarray([6.0])}  # of norm 7
    for clip, scale in ((1.0, 1 / 7), (7.5, 1.0), (0.0, 1.0)):
        after = optimize(constant("sgd", clip_norm=clip), axes, parameters, [gradient])
        for name, value in gradient.items():
            np.testing.assert_allclose(after[name], -0.1 * scale * value, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "adamm"}, ["adamm", *OPTIMIZERS]),
        ({"schedule": "cosin"}, ["cosin", *SCHEDULES]),
        ({"weight_decay": -0.1, "name": "adamw"}, ["optimizer.weight_decay", "-0.1"]),
        ({"clip_norm": -1.0}, ["optimizer.clip_norm", "-1.0"]),
        ({"learning_rate": -0.1}, ["optimizer.learning_rate", "-0.1"]),
        ({"learning_rate": 0.0}, ["optimizer.learning_rate", "0.0"]),
        ({"learning_rate": float("nan")}, ["optimizer.learning_rate", "nan"]),
        ({"warmup_steps": 0}, ["optimizer.warmup_steps", "0"]),
        ({"weight_decay": 0.1}, ["optimizer.weight_decay", "adam", "adamw, lion, muon or adafactor"]),
        ({"weight_decay": 0.1, "name": "sgd"}, ["optimizer.weight_decay", "sgd", "adamw, lion, muon or adafactor"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line_that_says_what_can(changes, words):
    config = OptimizerConfig(**changes)
    with pytest.raises(ValueError) as error:
        make_optimizer(config, AXES, make_schedule(config, 512, 100))
    assert "\n" not in str(error.value)
    assert [word for word in words if word not in str(error.value)] == []


def test_each_layer_learns_by_a_fixed_share_of_the_rate_of_the_one_above_it():
    shapes = {
        "embedding/table": (50, 4),
        "encoder/first_0/norm/scale": (4,),
        "encoder/layers/norm/scale": (2, 4),
        "encoder/layers_1/norm/scale": (2, 4),
        "encoder/last_0/norm/scale": (4,),
        "encoder/position_bias/table": (4, 4),
        "head/kernel": (4, 4),
    }
    axes = {name: ("layers", "embed") if "layers" in name else ("embed",) * len(of) for name, of in shapes.items()}
    config = constant("sgd", layer_decay=0.5)
    zeros = {name: np.zeros(of, np.float32) for name, of in shapes.items()}
    after = optimize(config, axes, zeros, [jax.tree.map(lambda x: x - 1, zeros)])
    # Six layers: 0 is first_0, 1 and 3 are in layers, 2 and 4 in layers_1, 5 is last_0; the head is above them.
    rates = {name: value.reshape(value.shape[0], -1)[:, 0] / 0.1 for name, value in after.items()}
    np.testing.assert_allclose(rates["head/kernel"], 1)
    np.testing.assert_allclose(rates["encoder/last_0/norm/scale"], 0.5)
    np.testing.assert_allclose(rates["encoder/layers_1/norm/scale"], [0.5**4, 0.5**2])
    np.testing.assert_allclose(rates["encoder/layers/norm/scale"], [0.5**5, 0.5**3])
    np.testing.assert_allclose(rates["encoder/first_0/norm/scale"], 0.5**6)
    for name in ("embedding/table", "encoder/position_bias/table"):
        np.testing.assert_allclose(rates[name], 0.5**7)


def test_matrices_that_are_named_do_not_decay():
    none = [jax.tree.map(np.zeros_like, PARAMETERS)]
    after = optimize(constant("adamw", weight_decay=0.5, no_decay=("embedding/*",)), AXES, PARAMETERS, none)
    np.testing.assert_array_equal(after["embedding/table"], PARAMETERS["embedding/table"])
    assert not np.allclose(after["layers/query/kernel"], PARAMETERS["layers/query/kernel"])


def test_a_layer_that_a_stack_shares_learns_faster_than_the_input_and_slower_than_the_output():
    shapes = {"embedding/table": (50, 4), "encoder/shared/inner/kernel": (4, 8), "head/kernel": (4, 4)}
    axes = dict.fromkeys(shapes, ("embed", "mlp"))
    zeros = {name: np.zeros(of, np.float32) for name, of in shapes.items()}
    after = optimize(constant("sgd", layer_decay=0.5), axes, zeros, [jax.tree.map(lambda x: x - 1, zeros)])
    rates = [value.flat[0] / 0.1 for value in after.values()]
    np.testing.assert_allclose(rates, [0.25, 0.5, 1], rtol=1e-6)


def test_a_table_of_relative_biases_does_not_decay():
    axes = {"encoder/position_bias/table": ("buckets", "heads"), "kernel": ("embed", "mlp")}
    before = {name: np.ones((4, 4), np.float32) for name in axes}
    after = optimize(constant("adamw", weight_decay=0.5), axes, before, [jax.tree.map(np.zeros_like, before)])
    assert (after["encoder/position_bias/table"] == 1).all() and (after["kernel"] < 1).all()
