"""What every test runs under: eight CPU devices, no silent broadcasting between ranks, array annotations checked."""

import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

PLATFORM = os.environ.get("TRANSFORMER_JAX_TEST_PLATFORM", "cpu")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_configure():
    os.environ["JAX_PLATFORMS"] = {"gpu": "cuda"}.get(PLATFORM, PLATFORM)  # for processes that tests start
    jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_default_matmul_precision", "highest")  # accelerators round float32 products by default
    install_import_hook("transformer_jax", "beartype.beartype")


def pytest_collection_modifyitems(config, items):
    for item in items:
        needed = next((name for name in ("gpu", "tpu") if item.get_closest_marker(name)), "cpu")
        if needed != PLATFORM:
            reason = f"runs on {needed} only, this is {PLATFORM}: set TRANSFORMER_JAX_TEST_PLATFORM={needed}"
            item.add_marker(pytest.mark.skip(reason=reason))
        elif item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: add --slow"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data: the directory that TRANSFORMER_JAX_DATA names, or `shared/data` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    directory = Path(os.environ.get("TRANSFORMER_JAX_DATA", beside))
    if not directory.is_dir():
        pytest.skip(f"no real data at {directory}: name its directory in TRANSFORMER_JAX_DATA")
    return directory
