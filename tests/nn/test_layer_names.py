from transformer_jax.models.encoder_only import modern_bert
from transformer_jax.nn.layer_names import slices_by_layer
from transformer_jax.nn.parameters import named_parameters

CONFIG = modern_bert(d_model=8, num_heads=2, d_ff=8, num_layers=6, vocab_size=16, window=2)


def test_layers_are_numbered_whatever_their_grouping():
    """One odd layer, a period of three, and two that are left."""
    parameters = named_parameters(CONFIG.build(0))
    slices = slices_by_layer({name: value.shape for name, value in parameters.items()})
    name = "feed_forward/input/kernel"
    assert slices[f"encoder/0/{name}"] == (f"encoder/first_0/{name}", ())
    assert slices[f"encoder/2/{name}"] == (f"encoder/layers_1/{name}", (0,))
    assert slices[f"encoder/5/{name}"] == (f"encoder/last_1/{name}", ())
    assert not any("layers" in name or "first" in name for name in slices)
    # Every parameter, and every place along a layers axis, is there once.
    places = sorted((name, place) for name, at in parameters.items() for place in _places(name, at))
    assert sorted(slices.values()) == places


def _places(name, value):
    return [(i,) for i in range(len(value))] if "/layers" in name else [()]
