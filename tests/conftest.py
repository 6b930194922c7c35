"""What every test runs under: eight CPU devices, no silent broadcasting between ranks, array annotations checked."""

import mmap
import os
import shutil
import tempfile
from pathlib import Path

import jax
import jaxlib
import jaxtyping
import pytest

PLATFORM = os.environ.get("TRANSFORMER_JAX_TEST_PLATFORM", "cpu")
JAX_SETTINGS = {
    "jax_platforms": {"gpu": "cuda"}.get(PLATFORM, PLATFORM),
    "jax_num_cpu_devices": 8,
    "jax_numpy_rank_promotion": "raise",
    "jax_default_matmul_precision": "highest",  # accelerators round float32 products by default
    "jax_disable_most_optimizations": PLATFORM == "cpu",  # programs that run for milliseconds take seconds to compile
    "jax_persistent_cache_min_compile_time_secs": 0.0,
}
CHECKED = ("data", "decoding", "nn", "training")
"""The rooms in whose tests the annotations of arrays are checked, which makes a quarter of their time. The models' and
tasks' own are few, and checked with --slow."""
MOST_PIECES = 20_000
"""Of memory in a process of tests, after which it forgets its programs."""
FAST_TO_COMPILE = "xla_cpu_use_fusion_emitters"
"""XLA's flag for code that runs faster and takes twice as long to compile."""


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_configure(config):
    if (
        PLATFORM == "cpu"
        and FAST_TO_COMPILE not in os.environ.get("XLA_FLAGS", "")
        and is_known_to_xla(FAST_TO_COMPILE)
    ):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{FAST_TO_COMPILE}=false"
    JAX_SETTINGS["jax_compilation_cache_dir"] = place_for_programs(config)
    for name, value in JAX_SETTINGS.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)  # for processes that tests start
    jaxtyping.install_import_hook(modules_to_check(), "beartype.beartype")


def modules_to_check():
    """All modules of the package but one, whose small functions are called a million times to make dates."""
    root = Path(__file__).resolve().parents[1]
    files = (file.relative_to(root).with_suffix("") for file in (root / "transformer_jax").glob("*/*.py"))
    return [".".join(file.parts) for file in files if file.name not in ("__init__", "dates")]


def is_known_to_xla(flag):
    """Whether XLA has a flag of this name, by the strings in its library: an unknown flag would end the process."""
    libraries = Path(jaxlib.__file__).parent.glob("*.so")
    with max(libraries, key=lambda file: file.stat().st_size).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ).find(f"\0{flag}\0".encode()) >= 0


def place_for_programs(config):
    """A directory that saves all tests of a worker, and processes that they start, from compiling a program twice.

    Each worker has its own, since JAX does not write these files in one piece, in one that outlives all workers.
    """
    if hasattr(config, "workerinput"):
        return os.path.join(os.environ["JAX_COMPILATION_CACHE_DIR"], config.workerinput["workerid"])
    directory = tempfile.mkdtemp(prefix="jax-programs-")
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))
    return directory


def pytest_collection_modifyitems(config, items):
    for item in items:
        needed = next((name for name in ("gpu", "tpu") if item.get_closest_marker(name)), "cpu")
        if needed != PLATFORM:
            reason = f"runs on {needed} only, this is {PLATFORM}: set TRANSFORMER_JAX_TEST_PLATFORM={needed}"
            item.add_marker(pytest.mark.skip(reason=reason))
        elif item.get_closest_marker("slow") and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: add --slow"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """All other tests call what these call."""
    room = item.path.relative_to(Path(__file__).parent).parts[0]
    checked = room in CHECKED or item.config.getoption("--slow")
    jaxtyping.config.update("jaxtyping_disable", not checked)


def pytest_runtest_teardown(item, nextitem):
    """Forgets compiled programs before Linux refuses a process more than 65,530 pieces of memory, which ends it.

    A program has some four of them; a worker of the whole suite would reach their number.
    """
    pieces = Path("/proc/self/maps")
    file_ends = nextitem is None or nextitem.path != item.path
    if file_ends and pieces.exists() and len(pieces.read_bytes().splitlines()) > MOST_PIECES:
        jax.clear_caches()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data: the directory that TRANSFORMER_JAX_DATA names, or `shared/data` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    directory = Path(os.environ.get("TRANSFORMER_JAX_DATA", beside))
    if not directory.is_dir():
        pytest.skip(f"no real data at {directory}: name its directory in TRANSFORMER_JAX_DATA")
    return directory
