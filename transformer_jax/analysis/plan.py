"""Memory, messages and time of a run on another machine, from its training step compiled for that machine."""

import contextlib
import importlib.util
import itertools
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from transformer_jax.analysis.program import Collective, Traffic, collectives
from transformer_jax.data.plan import most_rows
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.parallel.chips import CHIPS, GIB, Chip
from transformer_jax.parallel.mesh import described, make_mesh
from transformer_jax.training.experiment import Experiment
from transformer_jax.training.flops import matmul_flops
from transformer_jax.training.step import abstract_state, batch_sharding, check_batches, make_update

LIBTPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # it only compiles, so others may do so at the same time
    "TPU_SKIP_MDS_QUERY": "1",  # there is no TPU to ask for
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any; nor would it then complain that it cannot ask
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}
"""Environment of libtpu without a TPU."""
MOST_DEVICES = 1024
"""Most chips of a topology."""
MOST_TRIED = 6
"""Most changes that are compiled in search of one that fits."""


@dataclass(frozen=True)
class Plan:
    """The needs of a training step on some devices; bytes are those of one device."""

    experiment: Experiment
    mesh: dict[str, int]
    rows: int
    """Rows of the largest batch, that of the longest examples."""
    tokens: int
    """Tokens of that batch, padding included."""
    parameters: int
    parameter_bytes: int
    optimizer_bytes: int
    """Bytes of the optimizer's state and the step's number."""
    batch_bytes: int
    temporary_bytes: int
    """Bytes of gradients, activations and workspace, by the compiler."""
    model_flops: float
    """Matrix products of a step on all devices together, without those computed again (`training/flops.py`)."""
    flops: float
    """Matrix products with those that are computed again to save memory."""
    messages: dict[Collective, Traffic]
    available: int
    """Devices of the machine; a mesh may leave some idle."""
    dimensions: int
    """Axes of the torus along which its devices differ; 1 if there is no torus."""

    @property
    def devices(self) -> int:
        """Devices of the mesh."""
        return math.prod(self.mesh.values())

    @property
    def bytes(self) -> int:
        """Bytes on a device while a step runs."""
        return self.parameter_bytes + self.optimizer_bytes + self.batch_bytes + self.temporary_bytes


def topology(name: str) -> tuple[list[Any], Chip | None]:
    """The devices that `v5e:4x4`, `h100:8` or `cpu:8` names, and their chip; None for a CPU.

    TPUs need the extra `tpu` but no TPU. GPUs and CPUs are simulated by CPU devices: ask in a fresh process. Raises
    ValueError for an unknown one.
    """
    kind, _, shape = name.partition(":")
    if kind not in (*CHIPS, "cpu") or not re.fullmatch(r"[0-9]{1,6}(x[0-9]{1,6})*", shape):
        raise ValueError(f"a topology is CHIP:SIZES such as v5e:4x4 or h100:8, not {name!r}; chips: {', '.join(CHIPS)}")
    count = math.prod(map(int, shape.split("x")))
    if not 1 <= count <= MOST_DEVICES:
        raise ValueError(f"{name} is not between 1 and {MOST_DEVICES:,} chips")
    jax.config.update("jax_platforms", "cpu")
    chip = CHIPS.get(kind)
    if chip is not None and chip.is_tpu:
        from jax.experimental import topologies

        for variable, value in LIBTPU.items():
            os.environ.setdefault(variable, value)
        if importlib.util.find_spec("libtpu") is None:
            raise ValueError(f"planning for {name} needs the compiler for TPUs: pip install -e '.[tpu]'")
        more: dict[str, Any] = {"chips_per_host_bounds": (1, 1, 1)} if count == 1 else {}
        if kind == "v4":
            more["chip_config_name"] = "megacore"  # both halves of a chip as one device, as JAX trains on it
        try:
            return list(topologies.get_topology_desc(platform="tpu", topology_name=name, **more).devices), chip
        except Exception as error:  # What libtpu says of an impossible shape is of many types.
            reason = str(error).splitlines()[0][:160]
            raise ValueError(
                f"there is no {name}: {reason}; shapes are those of Google's lists, such as 1x1, 2x2, 4x4, 8x8 and "
                "16x16 of v5e and v6e (v5litepod-16 is v5e:4x4), 2x2x1, 2x2x2 and 4x4x4 of v4 and v5p"
            ) from error
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        if len(jax.devices("cpu")) < count:
            raise ValueError(f"{name} needs a fresh process, in which JAX has made no devices yet") from error
    return jax.devices("cpu")[:count], chip


def make_plan(experiment: Experiment, devices: Sequence[Any]) -> Plan:
    """Compiles the experiment's step for these devices, without its data; raises ValueError if it cannot be."""
    experiment = with_vocabulary(experiment)
    task, data, model = experiment.task, experiment.data, experiment.model
    longest = task.longest(data)
    rows = most_rows(longest, data.tokens_per_batch, data.batch_multiple)
    mesh = make_mesh(experiment.mesh, devices)
    check_batches(experiment, mesh)
    with jax.set_mesh(mesh):
        update = make_update(experiment)
        state = abstract_state(model, update.optimizer, mesh, update.frozen)
        batch = _sharded(task.abstract_batch(rows, data.max_length), batch_sharding(mesh))
        key = jax.eval_shape(lambda: jax.random.key(0, impl=experiment.train.random_bits))
        key = _sharded(key, NamedSharding(mesh, PartitionSpec()))
        traced = update.step.trace(state, batch, key)
        flops, model_flops = matmul_flops(traced.jaxpr.jaxpr), update.model_flops(state, batch, key)
        compiled = traced.lower().compile()
    places = zip(*(getattr(device, "coords", (0,)) for device in devices), strict=True)
    return Plan(
        experiment=experiment,
        mesh=dict(mesh.shape),
        rows=rows,
        tokens=rows * longest,
        parameters=model.num_parameters(),
        parameter_bytes=_bytes(named_parameters(state.model)),
        optimizer_bytes=_bytes((state.optimizer, state.step)),
        batch_bytes=_bytes(batch),
        temporary_bytes=compiled.memory_analysis().temp_size_in_bytes,
        model_flops=model_flops,
        flops=flops,
        messages=collectives(compiled.as_text() or ""),
        available=len(devices),
        dimensions=max(sum(len(set(along)) > 1 for along in places), 1),
    )


def with_vocabulary(experiment: Experiment) -> Experiment:
    """The experiment with the model's sizes that follow from vocabularies as large as its tokenizer's may be."""
    task, data = experiment.task, experiment.data
    sizes = {feature: getattr(config, "vocab_size", 0) or 261 for feature, config in task.vocabularies(data).items()}
    return replace(experiment, model=task.resolve(experiment.model, data, sizes))


def what_would_fit(
    plan: Plan, devices: Sequence[Any], memory: float, tell: Callable[[str], None] = lambda options: None
) -> tuple[str, Plan] | None:
    """Finds a change after which a device holds at most `memory` bytes: its options and its plan, or None.

    `tell` is called with the options of each change before it is compiled.
    """
    tried = [plan.experiment]
    for options, experiment in _changes(plan.experiment, len(devices)):
        if experiment in tried or len(tried) > MOST_TRIED:
            continue
        tell(options)
        with contextlib.suppress(ValueError):  # such as a mesh that does not divide the model
            other = make_plan(experiment, devices)
            tried.append(experiment)
            if other.bytes <= memory:
                return options, other
    return None


def report(plan: Plan, chip: Chip | None, *, utilisation: float) -> str:
    """Writes the plan out: what the compiler says apart from what is only estimated."""
    simulated = chip is None or not chip.is_tpu
    whose = "estimated by a CPU's compiler on simulated devices" if simulated else "as its compiler lays it out"
    again = f", with those made again {plan.flops / 1e12:,.4g}" if plan.flops > 1.01 * plan.model_flops else ""
    sizes = {
        "parameters": plan.parameter_bytes,
        "optimizer": plan.optimizer_bytes,
        "batch": plan.batch_bytes,
        "gradients, activations and workspace": plan.temporary_bytes,
        "in all": plan.bytes,
    }
    longest = plan.tokens // plan.rows
    lines = [
        f"model: {plan.parameters:,} parameters; mesh: {described(plan.mesh)}, of {plan.available} chips",
        f"largest batch: {plan.rows:,} rows" + (f" of {longest} tokens" if longest > 1 else ""),
        f"matrix products of a step: {plan.model_flops / 1e12:,.4g} TFLOP{again}",
        f"memory of a device, {whose}:",
        *(f"  {part:<42} {_readable(size):>12}" for part, size in sizes.items()),
        f"messages of a step, {whose}:" if plan.messages else "no messages between devices",
        *(
            f"  {kind} among {group}: {traffic.count:,} times, {_readable(traffic.sent)} sent by a device"
            for (kind, group), traffic in plan.messages.items()
        ),
    ]
    if simulated and any(message.kind == "all-reduce" for message in plan.messages):
        lines.append("  (where each needs only a part of a sum, a GPU's compiler sends half of that: reduce-scatter)")
    if chip is None:
        return "\n".join([*lines, "no time is estimated: nothing is known of this chip"])
    fits = "fits" if plan.bytes <= chip.memory else "DOES NOT FIT"
    lines.append(f"{fits}: {plan.bytes / GIB:.2f} of the {chip.memory / GIB:.0f} GiB of a {chip.name}")
    return "\n".join([*lines, *_times(plan, chip, utilisation)])


def _times(plan: Plan, chip: Chip, utilisation: float) -> Iterator[str]:
    steps, near = plan.experiment.train.steps, _near(plan, chip)
    products = plan.flops / plan.devices / _peak(plan, chip)
    fastest = max((_bandwidth(plan, chip, message) for message in near), default=chip.links * chip.link_bandwidth)
    yield "a step takes at least, estimated from the chip's published peaks:"
    yield f"  {1e3 * products:10.2f} ms for matrix products at {_peak(plan, chip) / 1e12:,.0f} TFLOP/s, {_dtype(plan)}"
    yield (
        f"  {1e3 * _memory_seconds(plan, chip):10.2f} ms to read and write everything once at "
        f"{chip.memory_bandwidth / 1e12:.2f} TB/s"
    )
    messages = 1e3 * _message_seconds(plan, chip)
    yield f"  {messages:10.2f} ms for messages at up to {fastest / 1e9:.0f} GB/s, if none is hidden"
    if len(near) < len(plan.messages):
        yield f"  and what a network takes for messages among more than {chip.together} chips: not known here"
        return
    step = step_seconds(plan, chip, utilisation)
    hours = step * steps / 3600
    yield f"if {100 * utilisation:.0f} % of the peak were reached, which is an assumption:"
    long = f"{hours:,.1f} hours" if hours > 2 else f"{60 * hours:,.1f} minutes"
    yield f"  {plan.tokens / step:,.0f} tokens/s, {long} for {steps:,} steps"
    yield f"  {hours * plan.available:,.2f} chip-hours"


def step_seconds(plan: Plan, chip: Chip, utilisation: float) -> float:
    """The time of a step: of products at this share of the peak, of memory or of near messages, the longest of them."""
    products = plan.model_flops / plan.devices / _peak(plan, chip) / utilisation
    return max(products, _memory_seconds(plan, chip), _message_seconds(plan, chip))


def _dtype(plan: Plan) -> str:
    return getattr(plan.experiment.model, "dtype", "float32")


def _peak(plan: Plan, chip: Chip) -> float:
    return chip.peak(_dtype(plan))


def _memory_seconds(plan: Plan, chip: Chip) -> float:
    """Everything is read and written once."""
    return 2 * plan.bytes / chip.memory_bandwidth


def _message_seconds(plan: Plan, chip: Chip) -> float:
    return sum(traffic.sent / _bandwidth(plan, chip, message) for message, traffic in _near(plan, chip).items())


def _near(plan: Plan, chip: Chip) -> dict[Collective, Traffic]:
    """The messages among chips that links connect."""
    return {message: traffic for message, traffic in plan.messages.items() if message.group <= chip.together}


def _bandwidth(plan: Plan, chip: Chip, message: Collective) -> float:
    """Bytes per second of a message; one among all devices can use every axis of a torus at once."""
    return chip.links * chip.link_bandwidth * (plan.dimensions if message.group == plan.devices else 1)


def _changes(experiment: Experiment, devices: int) -> Iterator[tuple[str, Experiment]]:
    """Changes that save memory, as options and experiments, the cheapest first."""
    mesh, train, model, data = experiment.mesh, experiment.train, experiment.model, experiment.data
    can_remat = hasattr(model, "remat") and not model.remat
    factors = itertools.product((False, True), (False, True) if can_remat else (False,), (1, 4))
    for fsdp, remat, times in factors:
        accumulate = times * train.accumulate
        rows = math.lcm(data.batch_multiple, devices * accumulate) if times > 1 else data.batch_multiple
        options = ["--mesh.data 1 --mesh.fsdp -1"] * fsdp + ["--model.remat true"] * remat
        options += [f"--train.accumulate {accumulate}"] * (times > 1)
        options += [f"--data.batch-multiple {rows}"] * (rows != data.batch_multiple)
        if options:
            changed = replace(
                experiment,
                mesh=replace(mesh, data=1, fsdp=-1) if fsdp else mesh,
                model=replace(model, remat=True) if remat else model,
                train=replace(train, accumulate=accumulate),
                data=replace(data, batch_multiple=rows),
            )
            yield " ".join(options), changed


def _readable(size: float | int) -> str:
    return f"{size / GIB:.3f} GiB" if size > 0.1 * GIB else f"{size / 2**20:.2f} MiB"


def _sharded(shapes: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes)


def _bytes(arrays: Any) -> int:
    """Bytes of one device's shards of arrays."""
    leaves = jax.tree.leaves(arrays)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
