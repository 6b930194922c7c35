import numpy as np
import pytest

from transformer_jax.interop.published import write_published
from transformer_jax.models.decoder_only import llama
from transformer_jax.nn.parameters import named_parameters

SIZES = {"d_model": 16, "num_heads": 4, "num_kv_heads": 2, "d_ff": 24, "num_layers": 2, "vocab_size": 45}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A published Llama with random parameters, to be copied before it is changed."""
    directory = tmp_path_factory.mktemp("tiny")
    config = llama(**SIZES)
    parameters = {name: np.asarray(value) for name, value in named_parameters(config.build(0)).items()}
    write_published(directory, config, parameters)
    return directory
