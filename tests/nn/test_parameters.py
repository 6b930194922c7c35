"""Parameters have names: a flat dictionary that goes out of a module and back in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transformer_jax.models.encoder_decoder import EncoderDecoderConfig
from transformer_jax.nn.parameters import named_parameters, parameter_axes, replace_parameters

CONFIG = EncoderDecoderConfig(d_model=16, num_heads=2, d_ff=32, num_layers=2, vocab_size=24, source_vocab_size=24)
SOURCE = jnp.arange(12).reshape(2, 6)


@pytest.fixture(scope="module")
def model():
    return CONFIG.build(0)


def test_names_are_paths_through_the_modules(model):
    parameters = named_parameters(model)
    assert {"embedding/table", "decoder/layers/cross_attention/query/kernel"} <= parameters.keys()
    assert parameters["encoder/layers/feed_forward/input/kernel"].shape == (2, 16, 32)


def test_names_stand_for_every_array_of_the_module_once(model):
    assert len(named_parameters(model)) == len(jax.tree.leaves(model))


def test_replaced_parameters_are_found_again_under_their_names(model):
    shapes = {name: value.shape for name, value in named_parameters(model).items()}
    other = {name: np.full(shape, i, np.float32) for i, (name, shape) in enumerate(shapes.items())}
    found = named_parameters(replace_parameters(model, other))
    assert found.keys() == other.keys()
    for name, value in other.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_the_order_of_the_given_dictionary_does_not_matter(model):
    parameters = named_parameters(model)
    found = named_parameters(replace_parameters(model, dict(reversed(parameters.items()))))
    assert all(found[name] is value for name, value in parameters.items())


def test_replacing_parameters_leaves_the_old_module_alone(model):
    before = named_parameters(model)
    replace_parameters(model, {name: value + 1 for name, value in before.items()})
    assert all(named_parameters(model)[name] is value for name, value in before.items())


def test_a_module_computes_with_its_replaced_parameters(model):
    other = named_parameters(CONFIG.build(1))
    encode = jax.jit(lambda model: model.encode(SOURCE).vectors)
    replaced, wanted = encode(replace_parameters(model, other)), encode(CONFIG.build(1))
    np.testing.assert_array_equal(replaced, wanted)
    assert not np.allclose(replaced, encode(model))


def test_wrong_names_are_refused_in_one_line_that_says_them(model):
    parameters = named_parameters(model)
    table = parameters.pop("embedding/table")
    for wrong in (parameters, parameters | {"embedding/tabel": table}):
        with pytest.raises(ValueError, match="embedding/table") as error:
            replace_parameters(model, wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="one/more"):
        replace_parameters(model, parameters | {"embedding/table": table, "one/more": table})


def test_axes_name_every_dimension_of_every_parameter(model):
    axes = parameter_axes(model)
    assert {name: len(of) for name, of in axes.items()} == {n: v.ndim for n, v in named_parameters(model).items()}
    assert axes["embedding/table"] == ("vocab", "embed")


def test_stacked_parameters_alone_have_layers_in_front(model):
    axes = parameter_axes(model)
    assert axes["decoder/layers/self_attention/output/kernel"] == ("layers", "heads", "head_dim", "embed")
    assert axes["encoder/layers/feed_forward_norm/bias"] == ("layers", "embed")
    for name, of in axes.items():
        assert of.count("layers") == (of[0] == "layers") == ("/layers/" in name), name


def test_abstract_models_have_the_same_names_axes_and_shapes(model):
    abstract = jax.eval_shape(lambda: CONFIG.build(0))
    assert parameter_axes(abstract) == parameter_axes(model)
    shapes = {name: value.shape for name, value in named_parameters(model).items()}
    assert {name: value.shape for name, value in named_parameters(abstract).items()} == shapes


def test_a_gradient_has_the_names_of_its_model(model):
    gradient = jax.jit(jax.grad(lambda model: jnp.sum(model(SOURCE, SOURCE) ** 2)))(model)
    shapes = {name: value.shape for name, value in named_parameters(model).items()}
    assert {name: value.shape for name, value in named_parameters(gradient).items()} == shapes
    assert parameter_axes(gradient) == parameter_axes(model)


def test_every_variable_of_a_model_is_a_parameter(model):
    variables = jax.tree.leaves(model, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
    assert {type(variable) for variable in variables} == {nnx.Param}
