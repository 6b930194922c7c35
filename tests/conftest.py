"""What every test runs under: eight CPU devices, no silent broadcasting between ranks, array annotations checked."""

import os
from pathlib import Path

import jax
import pytest
from jaxtyping import install_import_hook

PLATFORM = os.environ.get("TRANSFORMER_JAX_TEST_PLATFORM", "cpu")
JAX_SETTINGS = {
    "jax_platforms": {"gpu": "cuda"}.get(PLATFORM, PLATFORM),
    "jax_num_cpu_devices": 8,
    "jax_numpy_rank_promotion": "raise",
    "jax_default_matmul_precision": "highest",  # accelerators round float32 products by default
    "jax_disable_most_optimizations": PLATFORM == "cpu",  # programs that run for milliseconds take seconds to compile
}


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_configure():
    for name, value in JAX_SETTINGS.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for processes that tests start
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
