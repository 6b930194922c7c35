"""What every test runs under: eight CPU devices, no silent broadcasting between ranks, array annotations checked."""

import os
from pathlib import Path

import pytest

PLATFORM = os.environ.get("TRANSFORMER_JAX_TEST_PLATFORM", "cpu")

# JAX reads these when it is imported. Processes that tests start inherit them.
os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(PLATFORM, PLATFORM)
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("transformer_jax", "beartype.beartype")
