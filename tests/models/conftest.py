import jax
import pytest

from transformer_jax.nn.parameters import named_parameters, replace_parameters


@pytest.fixture(scope="session")
def randomised():
    """The model with every parameter random, those included that begin as zeros or ones."""

    def change(model, seed=0):
        parameters = named_parameters(model)
        keys = jax.random.split(jax.random.key(seed), len(parameters))
        shift = {
            name: value + 0.1 * jax.random.normal(key, value.shape)
            for key, (name, value) in zip(keys, parameters.items(), strict=True)
        }
        return replace_parameters(model, shift)

    return change
