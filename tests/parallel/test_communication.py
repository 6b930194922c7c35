"""What a compiled step sends between devices is what theory says, and nothing is copied whole by accident.

The compiler for CPUs sums gradients of shared-out parameters on all devices (all-reduce) and then cuts out each one's
part; those for TPUs and GPUs send only the parts (reduce-scatter), half of that.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from transformer_jax.analysis.program import collectives
from transformer_jax.nn.parameters import parameter_axes
from transformer_jax.parallel.axes import take_rows

pytestmark = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")

ROWS, LENGTH, WIDTH, VOCABULARY = 32, 12, 16, 264
GATHERED = 7 / 8 * 4
"""Bytes that a device sends for each float32 that eight gather; to sum it, twice that."""
REPLICATION = "nvoluntary full rematerialization"


def sent(run):
    """Bytes that a device sends in a step, by the kind of message."""
    total = {}
    for message, traffic in collectives(run.text).items():
        assert message.group == 8
        total[message.kind] = total.get(message.kind, 0.0) + traffic.sent
    return total


def size(run, chosen=lambda name, axes: True):
    """Numbers in the parameters that are chosen."""
    return sum(
        run.parameters[name].size for name, axes in parameter_axes(run.state.model).items() if chosen(name, axes)
    )


def test_devices_that_share_the_batch_sum_the_gradients_once(trained):
    run = trained("translation", "data")
    # The table is used for source, target and output, and the gradient of each use is summed for itself.
    summed = size(run) + 2 * VOCABULARY * WIDTH
    assert sent(run) == {"all-reduce": pytest.approx(2 * GATHERED * summed, rel=1e-3)}


def test_devices_that_share_out_parameters_gather_them_forward_and_backward(trained):
    run = trained("translation", "fsdp")
    shared = size(run, lambda name, axes: "embed" in axes)
    # A bias is not needed to compute the gradient of what it is added to, and the table is gathered once for all uses.
    added = size(run, lambda name, axes: "embed" in axes and name.endswith("bias"))
    gathered = 2 * shared - added - VOCABULARY * WIDTH
    summed = size(run) + 2 * VOCABULARY * WIDTH
    assert sent(run) == {
        "all-gather": pytest.approx(GATHERED * gathered, rel=1e-3),
        "all-reduce": pytest.approx(2 * GATHERED * summed, rel=2e-3),
    }


def test_devices_that_divide_layers_sum_the_output_of_every_sub_layer(trained):
    run = trained("translation", "tensor")
    vectors, layers = ROWS * LENGTH * WIDTH, 2
    forward = 2 * layers + 3 * layers + 2  # encoder, decoder, both embeddings
    # The same backward, and one more of every decoder layer: of the memory that its keys and values come from.
    backward = 2 * layers + 4 * layers + 1  # encoder, decoder, output
    # Of the logits of every token: their maximum, the sum of exponentials, the label's logit and the sum of all.
    of_tokens = 4 * ROWS * LENGTH
    expected = 2 * GATHERED * ((forward + backward) * vectors + of_tokens)
    assert sent(run) == {"all-reduce": pytest.approx(expected, rel=1e-3)}


def test_no_device_holds_more_than_its_eighth_of_the_logits(trained, variant, mesh):
    run = trained(variant, mesh)
    shapes = {tuple(map(int, found.split(","))) for found in re.findall(r"\w\d+\[([\d,]+)\]", run.text)}
    of_vocabulary = {shape for shape in shapes if any(length % 33 == 0 for length in shape)}
    logits = {shape for shape in of_vocabulary if WIDTH not in shape}
    assert logits, "the vocabulary is found"
    most = max(math.prod(shape) for shape in logits)
    assert most <= ROWS * LENGTH * VOCABULARY / 8, [shape for shape in logits if math.prod(shape) == most]


def test_the_compiler_copies_nothing_whole_for_want_of_a_better_way(trained, variant, mesh):
    log = trained(variant, mesh).log
    assert REPLICATION not in log, log


def test_the_compilers_complaints_are_heard(standard_error, meshes):
    """A look-up of parts of rows, whose result has to be shared out anew: what embeddings must not do."""
    mesh = meshes["data-fsdp-tensor"]

    def place(*axes):
        return NamedSharding(mesh, PartitionSpec(*axes))

    @jax.jit
    def look_up(table, tokens):
        return jax.lax.with_sharding_constraint(jnp.take(table, tokens, axis=0), place(("data", "fsdp")))

    table = jax.device_put(np.ones((VOCABULARY, WIDTH), np.float32), place("tensor", "fsdp"))
    tokens = jax.device_put(np.ones((ROWS, LENGTH), np.int32), place(("data", "fsdp")))
    with standard_error() as log:
        look_up.lower(table, tokens).compile()
    assert REPLICATION in log[0]


def test_hypotheses_that_move_within_their_sentence_stay_on_their_device(meshes):
    mesh = meshes["data"]
    rows = np.arange(32) // 4 * 4 + np.random.default_rng(0).integers(4, size=32)
    array = np.arange(2 * 32 * 5).reshape(2, 32, 5)
    with jax.set_mesh(mesh):
        placed = jax.device_put(array, NamedSharding(mesh, PartitionSpec(None, "data")))
        take = jax.jit(lambda array, rows: take_rows(array, rows, axis=1)).lower(placed, rows).compile()
    np.testing.assert_array_equal(take(placed, rows), array[:, rows])
    assert not collectives(str(take.as_text()))
