"""The mesh changes where numbers lie, never what they are: training and decoding on eight devices and on one."""

import jax
import numpy as np
import pytest

from transformer_jax.data.tokenizers import Bytes
from transformer_jax.decoding import growth
from transformer_jax.nn.parameters import named_parameters, parameter_axes, replace_parameters
from transformer_jax.parallel.axes import sharding
from transformer_jax.tasks.generator import Generation, TextGenerator
from transformer_jax.tasks.translation import Decoding, Translator

pytestmark = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs 8 devices")


def close(found, expected, tolerance):
    """Every array differs by at most so much of the norm of all."""
    norm = np.sqrt(sum(np.sum(np.square(array)) for array in expected.values()))
    assert found.keys() == expected.keys() and norm > 0.1
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance * norm, err_msg=name)


def test_twenty_steps_have_the_losses_of_one_device(trained, variant, mesh):
    expected = trained(variant, "one").losses
    np.testing.assert_allclose(trained(variant, mesh).losses, expected, rtol=1e-4)
    assert len(set(expected)) == 20 and expected[-1] < expected[0]


def test_the_first_gradient_is_that_of_one_device(trained, variant, mesh):
    close(trained(variant, mesh).gradient, trained(variant, "one").gradient, 1e-5)


def test_twenty_steps_of_sgd_lead_to_the_parameters_of_one_device(trained, variant, mesh):
    close(trained(variant, mesh).parameters, trained(variant, "one").parameters, 1e-5)


def test_a_step_leaves_every_array_where_it_lay(trained, variant, mesh):
    run = trained(variant, mesh)
    leaves = jax.tree_util.tree_leaves_with_path(run.state)
    for (path, leaf), wanted in zip(leaves, jax.tree.leaves(run.wanted), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert leaf.shape == wanted.shape, name
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim), f"{name}: {leaf.sharding}"


TOKENIZER = Bytes().train([])
LINES = ["ab", "words", "x", "the end", "1 2 3", "abc", "yes", "no"]
GENERATION = Generation(max_new_tokens=8, chunk=3)
SEARCHES = {
    "greedy": Decoding(beam_size=1, extra_length=2),
    "beam": Decoding(beam_size=3, extra_length=2),
    "greedy continuation": GENERATION,
    "sampling": GENERATION,
}


def decode(search, model):
    """What a search finds for the lines; `model` may lie anywhere."""
    settings = SEARCHES[search]
    if isinstance(settings, Decoding):
        return Translator(model, TOKENIZER, TOKENIZER, settings, max_length=12).search(LINES)
    generator = TextGenerator(model, TOKENIZER, settings, max_length=64)
    return generator.generate(LINES, temperature=0.0 if search.startswith("greedy") else 1.0)


# Each is compiled for seconds: the others run with --slow.
QUICK = (("greedy", "tensor"), ("beam", "data-fsdp-tensor"), ("sampling", "fsdp-tensor"))
MESHES = ("data", "fsdp", "tensor", "data-tensor", "fsdp-tensor", "data-fsdp-tensor", "data-tensor-sequence")


@pytest.mark.parametrize(
    ("search", "mesh"),
    [
        pytest.param(search, mesh, marks=[] if (search, mesh) in QUICK else pytest.mark.slow)
        for search in SEARCHES
        for mesh in MESHES
    ],
)
def test_decoding_token_by_token_finds_the_texts_of_one_device(trained, meshes, search, mesh, monkeypatch):
    monkeypatch.setattr(growth, "GROWTH", 2)
    model = trained("translation" if isinstance(SEARCHES[search], Decoding) else "language model", "one").state.model
    axes, parameters = parameter_axes(model), jax.device_get(named_parameters(model))
    expected, found = [], []
    for room, texts, on in ((64, expected, meshes["one"]), (4, found, meshes[mesh])):
        monkeypatch.setattr(growth, "ROOM", room)  # the caches of the mesh grow
        placed = {name: jax.device_put(value, sharding(axes[name], on)) for name, value in parameters.items()}
        with jax.set_mesh(on):
            texts += decode(search, replace_parameters(model, placed))
    if isinstance(SEARCHES[search], Decoding):
        scores = [[hypotheses[0].log_prob for hypotheses in texts] for texts in (found, expected)]
        np.testing.assert_allclose(*scores, rtol=1e-4)
        expected, found = ([hypotheses[0].text for hypotheses in texts] for texts in (expected, found))
    assert found == expected
    assert len(set(expected)) > 4
