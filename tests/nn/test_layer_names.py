import numpy as np

from transformer_jax.models.encoder_only import modern_bert
from transformer_jax.nn.layer_names import by_layer, with_layers_axes
from transformer_jax.nn.parameters import named_parameters

CONFIG = modern_bert(d_model=8, num_heads=2, d_ff=8, num_layers=6, vocab_size=16, window=2)


def test_layers_are_numbered_whatever_their_grouping_and_go_back_to_it():
    """One odd layer, a period of three, and two that are left."""
    parameters = named_parameters(CONFIG.build(0))
    alone = by_layer(parameters)
    name = "feed_forward/input/kernel"
    np.testing.assert_array_equal(alone[f"encoder/0/{name}"], parameters[f"encoder/first_0/{name}"])
    np.testing.assert_array_equal(alone[f"encoder/2/{name}"], parameters[f"encoder/layers_1/{name}"][0])
    np.testing.assert_array_equal(alone[f"encoder/5/{name}"], parameters[f"encoder/last_1/{name}"])
    assert not any("layers" in name or "first" in name for name in alone)
    back = with_layers_axes(alone, {name: value.shape for name, value in parameters.items()})
    assert back.keys() == parameters.keys()
    for name, value in parameters.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)
