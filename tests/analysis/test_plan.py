"""A plan says what the step that really runs needs."""

import importlib.util
import math
from dataclasses import replace

import jax
import numpy as np
import pytest

from transformer_jax.analysis.plan import make_plan, report, topology, what_would_fit
from transformer_jax.analysis.program import Collective, Traffic
from transformer_jax.cli.main import main
from transformer_jax.data.config import DataConfig
from transformer_jax.data.sources import Files
from transformer_jax.data.tokenizers import Bytes
from transformer_jax.models.decoder_only import gpt2
from transformer_jax.parallel.chips import CHIPS, chip_of
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.tasks.language_modelling import LanguageModelling
from transformer_jax.training.experiment import Experiment, TrainConfig
from transformer_jax.training.step import batch_sharding, init_state, make_update

eight = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")
MODEL = gpt2(d_model=32, num_heads=4, d_ff=64, num_layers=3, max_length=32, dropout=0.0, attention_dropout=0.0)
EXPERIMENT = Experiment(
    task=LanguageModelling(),
    data=DataConfig(source=Files(), tokenizer=Bytes(), max_length=32, tokens_per_batch=512, batch_multiple=8),
    model=MODEL,
    train=TrainConfig(steps=1_000),
)


@pytest.fixture(scope="module")
def plan():
    devices, _ = topology("cpu:8")
    return make_plan(replace(EXPERIMENT, mesh=MeshConfig(data=2, fsdp=2, tensor=2)), devices)


@eight
def test_parameters_optimizer_and_batch_are_those_of_the_step_that_runs(plan):
    experiment = plan.experiment
    mesh = make_mesh(experiment.mesh)
    assert plan.mesh == {"data": 2, "fsdp": 2, "tensor": 2, "sequence": 1} and plan.rows == 16
    with jax.set_mesh(mesh):
        update = make_update(experiment)
        state = init_state(experiment.model, update.optimizer, 0, mesh, update.frozen)
        shapes = experiment.task.abstract_batch(16, 32)
        batch = {name: np.zeros(of.shape, np.int32) for name, of in shapes.items()}
        batch = jax.device_put(batch, batch_sharding(mesh))

    def held(arrays):
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(arrays))

    assert plan.parameter_bytes == held(state.model)
    assert plan.optimizer_bytes == held((state.optimizer, state.step))
    assert plan.batch_bytes == held(batch)
    assert plan.parameters == experiment.model.num_parameters()


@eight
def test_products_are_six_for_each_weight_and_token_and_twelve_for_attention(plan):
    tokens, layers, width = 16 * 32, 3, 32
    weights = layers * (4 * width * width + 2 * width * 64) + 264 * width  # the output's vocabulary is padded
    attention = layers * 2 * 32 * width
    assert plan.model_flops == pytest.approx(6 * tokens * (weights + attention), rel=0.02)
    again = make_plan(replace(EXPERIMENT, model=replace(MODEL, remat=True)), jax.devices()[:1])
    assert again.model_flops == pytest.approx(plan.model_flops, rel=1e-6) and again.flops > 1.2 * plan.model_flops


@eight
def test_messages_of_data_parallel_are_one_all_reduce_of_the_gradient():
    plan = make_plan(EXPERIMENT, jax.devices())
    (message,) = plan.messages
    assert message == Collective("all-reduce", 8)
    gradient = 4 * (plan.parameters + 4 * 32)
    # The tied table's gradient comes in two parts, one of the embedding and one of the output.
    assert gradient * 7 / 4 < plan.messages[message].sent < (gradient + 4 * 264 * 32) * 7 / 4 * 1.05


@eight
def test_a_report_says_what_fits_and_what_would(plan):
    chip = replace(CHIPS["v5e"], memory=0.9 * plan.bytes)
    text = report(plan, chip, utilisation=0.5)
    assert "DOES NOT FIT" in text and "chip-hours" in text and f"{plan.parameters:,} parameters" in text
    options, other = what_would_fit(plan, jax.devices(), chip.memory) or ("", plan)
    assert options and other.bytes <= chip.memory
    assert "no time is estimated" in report(plan, None, utilisation=0.5)
    step = plan.model_flops / 8 / chip.peak("float32") / 0.5
    least = 2 * plan.bytes / chip.memory_bandwidth
    sent = sum(traffic.sent for traffic in plan.messages.values()) / (2 * chip.link_bandwidth)
    hours = max(step, least, sent) * 1_000 / 3600
    assert f"{8 * hours:,.2f} chip-hours" in text
    many = replace(plan, messages={Collective("all-reduce", 16): Traffic(1, 1.0)})
    unknown = report(many, CHIPS["h100"], utilisation=0.5)
    assert "among more than 8 chips: not known here" in unknown and "chip-hours" not in unknown
    assert "estimated by a CPU's compiler" in unknown and "reduce-scatter" in unknown
    assert "as its compiler lays it out" in text


def test_chips_are_known_by_what_jax_calls_them():
    assert chip_of("TPU v5 lite") == chip_of("TPU v5e") == CHIPS["v5e"] and chip_of("TPU v5") == CHIPS["v5p"]
    assert not any(map(chip_of, ("NVIDIA L40S", "NVIDIA H100 PCIe", "NVIDIA H200 NVL", "TPU v4 lite", "TPU7x")))
    assert CHIPS["h100"].peak("float32") == CHIPS["h100"].peak("bfloat16") / 2 - 5e11
    assert chip_of("NVIDIA H100 80GB HBM3") == CHIPS["h100"] and chip_of("cpu") is None
    assert all(math.isfinite(chip.flops) for chip in CHIPS.values())


@pytest.mark.parametrize("name", ["v5e", "v9:4", "h100:", "h100:x", "h100:4y", "cpu:99", "h100:0", "h100:100000"])
def test_a_topology_that_there_is_not_is_refused(name):
    with pytest.raises(ValueError, match="a topology is|needs a fresh process|not between 1 and"):
        topology(name)


def test_the_command_says_what_it_cannot_do(capsys):
    assert main(["plan", "experiments/quickstart.py", "--topology", "v5e:2x2", "--utilisation", "2"]) == 2
    assert "--utilisation: a share is above 0" in capsys.readouterr().err


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, which the extra tpu installs")
def test_a_step_is_compiled_for_a_tpu_that_is_not_there():
    devices, chip = topology("v5e:2x2")
    plan = make_plan(replace(EXPERIMENT, mesh=MeshConfig(data=2, fsdp=2)), devices)
    assert chip == CHIPS["v5e"] and plan.devices == 4
    assert sum(traffic.sent for traffic in plan.messages.values()) > plan.parameter_bytes


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, which the extra tpu installs")
@pytest.mark.parametrize(
    ("name", "count"),
    [("v4:2x2x1", 4), ("v5e:1x1", 1), ("v5e:4x4", 16), ("v5p:2x2x1", 4), ("v6e:1x1", 1), ("v6e:2x2", 4)],
)
def test_every_generation_of_tpus_is_known_with_a_device_for_each_chip(name, count):
    devices, chip = topology(name)
    assert len(devices) == count and chip is not None and devices[0].device_kind in chip.kinds


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu, which the extra tpu installs")
def test_a_shape_that_no_tpu_has_is_refused_with_some_that_there_are():
    with pytest.raises(ValueError, match=r"there is no v5e:3x3: .*4x4.*v5litepod-16 is v5e:4x4"):
        topology("v5e:3x3")
