"""One update of the parameters: a single `jax.jit` over the mesh of the run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray

from transformer_jax.data.pipeline import Plan, batches
from transformer_jax.data.subword_sampling import resample_all
from transformer_jax.data.table import Table
from transformer_jax.nn.layer_names import layer_numbers
from transformer_jax.nn.parameters import named_parameters, parameter_axes, partition, replace_parameters
from transformer_jax.parallel.axes import check_divides, num_shards, sharding
from transformer_jax.tasks.task import Sums, Task, Tokenizers
from transformer_jax.training.experiment import Experiment
from transformer_jax.training.flops import matmul_flops
from transformer_jax.training.means import WEIGHT
from transformer_jax.training.optimizer import make_optimizer, make_schedule, untrained


class TrainState(NamedTuple):
    """Everything that an update changes."""

    model: Any
    """The module, with float32 parameters."""
    optimizer: Any
    """Over the flat dictionary of named parameters."""
    step: Any
    """Int32 scalar: updates made so far."""


Parameters = dict[str, Any]
Optimizer = optax.GradientTransformation
Batch = Mapping[str, Array | np.ndarray]
StepFunction = Callable[[TrainState, Batch, PRNGKeyArray], tuple[TrainState, dict[str, Array]]]


def abstract_model(config: Any) -> Any:
    """The structure and shapes of a model of this configuration, without memory for its parameters."""
    return jax.eval_shape(lambda: config.build(0))


def state_shardings(state: Any, mesh: Mesh | AbstractMesh) -> Any:
    """The sharding of every array of a training state.

    Parameters follow the table in `parallel/axes.py`, and so do arrays of the optimizer that have the shape of their
    parameter; everything else is replicated. Raises ValueError for a mesh that does not divide a parameter.
    """
    axes, replicated = parameter_axes(state.model), NamedSharding(mesh, PartitionSpec())
    shapes = {name: value.shape for name, value in named_parameters(state.model).items()}
    shardings = {name: sharding(axes[name], mesh) for name in axes}
    for name, where in shardings.items():
        check_divides(name, shapes[name], axes[name], where)

    def of_optimizer(path: Any, leaf: Any) -> NamedSharding:
        name = next((key.key for key in path if isinstance(key, jax.tree_util.DictKey) and key.key in axes), None)
        return shardings[name] if name is not None and leaf.shape == shapes[name] else replicated

    optimizer = jax.tree_util.tree_map_with_path(of_optimizer, state.optimizer)
    return TrainState(replace_parameters(state.model, shardings), optimizer, replicated)


def fresh_state(config: Any, optimizer: Optimizer, seed: int | PRNGKeyArray, frozen: Sequence[str] = ()) -> TrainState:
    """The state before the first step."""
    model = config.build(seed)
    return TrainState(model, optimizer.init(partition(named_parameters(model), frozen)[0]), jnp.zeros((), jnp.int32))


def abstract_state(config: Any, optimizer: Optimizer, mesh: Mesh, frozen: Sequence[str] = ()) -> TrainState:
    """Shapes and shardings of a training state."""

    def sharded(leaf: Any, where: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    state = jax.eval_shape(lambda: fresh_state(config, optimizer, 0, frozen))
    return jax.tree.map(sharded, state, state_shardings(state, mesh))


def init_state(config: Any, optimizer: Optimizer, seed: int, mesh: Mesh, frozen: Sequence[str] = ()) -> TrainState:
    """A fresh training state, every array made on its own devices."""
    where = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, optimizer, mesh, frozen))
    # The key is an argument, so that the program is the same for every seed.
    fresh = jax.jit(lambda key: fresh_state(config, optimizer, key, frozen), out_shardings=where)
    return fresh(jax.random.key(seed))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch's arrays: rows over the devices that share it, other dimensions replicated."""
    return sharding(("batch",), mesh)


def batch_parts(mesh: Mesh) -> tuple[list[int], int]:
    """The shards of a batch's rows that lie on devices of this process, and the number of all shards."""
    number = num_shards("batch", mesh)
    slices = batch_sharding(mesh).addressable_devices_indices_map((number,)).values()
    return sorted({index[0].start or 0 for index in slices if index is not None}), number


def device_batches(
    task: Task,
    tokenizers: Tokenizers,
    table: Table,
    plan: Plan,
    mesh: Mesh,
    *,
    seed: int,
    start: int = 0,
    stop: int | None = None,
    subword_sampling: float = 0.0,
) -> Iterator[dict[str, Array]]:
    """Makes the batches of a plan from position `start` to `stop` on the mesh, in every process its own rows.

    Evaluation leaves `subword_sampling` at 0.
    """
    where = batch_sharding(mesh)
    mine, number = batch_parts(mesh)

    def augment(batch: dict[str, np.ndarray], epoch: int) -> dict[str, np.ndarray]:
        if subword_sampling:
            batch = resample_all(batch, task.resampled, tokenizers, alpha=subword_sampling, seed=seed, epoch=epoch)
        return task.augment(batch, tokenizers, seed=seed, epoch=epoch)

    def place(array: np.ndarray) -> Array:
        shape = (len(array) // len(mine) * number, *array.shape[1:])
        return jax.make_array_from_process_local_data(where, array, shape)

    for batch in batches(table, plan, start, stop=stop, parts=mine, num_parts=number, augment=augment):
        yield {name: place(array) for name, array in batch.items()}


def model_shardings(model: Any, mesh: Mesh) -> dict[str, NamedSharding]:
    """The shardings of a model's parameters for evaluation: dimensions that the mesh does not divide are replicated."""
    axes, shardings = parameter_axes(model), {}
    for name, value in named_parameters(model).items():
        sizes = zip(axes[name], value.shape, strict=True)
        shardings[name] = sharding(
            ["replicated" if size % num_shards(axis, mesh) else axis for axis, size in sizes], mesh
        )
    return shardings


def check_batches(experiment: Experiment, mesh: Mesh) -> None:
    """Raises ValueError for batches that the mesh and `train.accumulate` do not divide."""
    data, accumulate = experiment.data, experiment.train.accumulate
    shards = num_shards("batch", mesh) * accumulate
    if data.batch_multiple % shards:
        raise ValueError(
            f"data.batch_multiple {data.batch_multiple} is not a multiple of {shards}, "
            f"which is mesh.data x mesh.fsdp x train.accumulate; set it to {shards}"
        )
    lengths = num_shards("length", mesh)
    if data.max_length % lengths:
        good = data.max_length // lengths * lengths or lengths
        raise ValueError(f"mesh.sequence {lengths} does not divide data.max_length {data.max_length}; try {good}")


class Update(NamedTuple):
    """The update of an experiment's parameters."""

    optimizer: Optimizer
    frozen: tuple[str, ...]
    step: StepFunction
    model_flops: Callable[[TrainState, Any, Any], float]
    """From a state, a batch and a key to the matrix products of a step that trains everything, three times those of the
    forward pass; what is computed again to save memory is left out (Chowdhery et al. 2022, "PaLM", appendix B)."""


def make_update(experiment: Experiment) -> Update:
    """Makes the update of an experiment; raises ValueError for fields that do not fit its model."""
    config, train = experiment.optimizer, experiment.train
    model = abstract_model(experiment.model)
    axes, shapes = parameter_axes(model), {name: leaf.shape for name, leaf in named_parameters(model).items()}
    frozen = untrained(config, axes)
    schedule = make_schedule(config, experiment.model.d_model, train.steps)
    trained = partition(axes, frozen)[0]
    optimizer = make_optimizer(config, trained, schedule, numbers=layer_numbers(shapes), seed=train.seed)

    def flops(state: TrainState, batch: Any, key: Any) -> float:
        return 3 * matmul_flops(jax.make_jaxpr(experiment.task.loss)(state.model, dict(batch), key).jaxpr)

    step = make_step(experiment.task, optimizer, schedule, train.accumulate, frozen)
    return Update(optimizer, frozen, step, flops)


def make_step(
    task: Task, optimizer: Optimizer, schedule: optax.Schedule, accumulate: int = 1, frozen: Sequence[str] = ()
) -> StepFunction:
    """Makes the function from a state, a batch and the run's key to the next state and the metrics of this step.

    The task's metrics are means, each with its weight beside it, such as `loss` and `loss_weight`.

    With `accumulate` micro-batches, sums of losses and gradients are added up and divided once by the weight of the
    whole batch, so that the numbers are those of one pass. Parameters that match a pattern of `frozen` stay as they
    are, without a gradient. The state's memory is reused.
    """

    def step(state: TrainState, batch: Batch, run_key: PRNGKeyArray) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(run_key, state.step)
        trainable, rest = partition(named_parameters(state.model), frozen)

        def loss(trainable: Parameters, batch: Any, key: PRNGKeyArray) -> tuple[Array, Sums]:
            sums = task.loss(replace_parameters(state.model, trainable | rest), batch, key)
            return sums["loss"][0], sums

        gradient, sums = _gradient(loss, trainable, batch, key, accumulate)
        weight = jnp.maximum(sums["loss"][1], 1)
        gradient = {name: value / weight for name, value in gradient.items()}
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, trainable)
        new: Any = optax.apply_updates(trainable, updates)
        model = replace_parameters(state.model, new | rest)
        metrics = {name: total / jnp.maximum(weight, 1) for name, (total, weight) in sums.items()}
        metrics |= {name + WEIGHT: weight for name, (_, weight) in sums.items()}
        metrics |= {
            "tokens": task.num_tokens(batch),
            "learning_rate": jnp.asarray(schedule(state.step)),
            "gradient_norm": optax.tree.norm(gradient),
        }
        after = TrainState(model, optimizer_state, state.step + 1)
        mesh = jax.sharding.get_abstract_mesh()
        if not mesh.empty and mesh.size > 1:
            # Left to itself, the compiler may lay an array elsewhere, and the next step would be compiled anew.
            after = jax.lax.with_sharding_constraint(after, state_shardings(after, mesh))
        return after, metrics

    return jax.jit(step, donate_argnums=0)


def _gradient(loss: Any, trainable: Parameters, batch: Batch, key: Any, accumulate: int) -> tuple[Parameters, Sums]:
    """Gradient of the summed loss, and the sums."""
    gradient = jax.grad(loss, has_aux=True)
    if accumulate == 1:
        return gradient(trainable, batch, key)
    # Row i goes to micro-batch i modulo `accumulate`, so that every device keeps the rows that it has.
    parts = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(-1, accumulate, *x.shape[1:]), 1, 0), dict(batch))

    def add(total: Any, part_and_key: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(trainable, *part_and_key)), None

    keys = jax.random.split(key, accumulate)
    shapes = jax.eval_shape(gradient, trainable, jax.tree.map(lambda x: x[0], parts), keys[0])
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, (parts, keys))[0]
