"""Checkpoints: what is saved comes back to the bit, or is found to be damaged."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jaxtyping import Array

import transformer_jax
from transformer_jax.runs import checkpoint, checkpoint_folder
from transformer_jax.runs.checkpoint import CheckpointDamaged, Checkpoints, Restored, average
from transformer_jax.runs.checkpoint_folder import STATE, write_facts
from transformer_jax.runs.fingerprint import fingerprints

Arrays = dict[str, Array]
FACTS = {"key": [0, 4294967295], "experiment": {"name": "é", "rate": 1e-9, "none": None}}


def arrays(seed: int) -> Arrays:
    """Every type that a run may hold, under names that start alike and hold what a file system minds."""
    rng = np.random.default_rng(seed)
    return {
        "decoder/layers/kernel": jnp.asarray(rng.normal(size=(3, 5)), jnp.float32),
        "decoder/layers/kernel/a": jnp.asarray(rng.normal(size=4), jnp.bfloat16),
        "decoder.layers": jnp.asarray(rng.normal(size=(2, 1, 2)), jnp.float16),
        "0/mu/é %~..": jnp.asarray(rng.integers(-9, 9, size=6), jnp.int32),
        "count": jnp.asarray(rng.integers(2**32), jnp.uint32),
        "mask": jnp.asarray(rng.integers(2, size=7), bool),
        "bytes": jnp.asarray(rng.integers(256, size=5), jnp.uint8),
    }


def template(values: Arrays) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in values.items()}


MODEL, OPTIMIZER = template(arrays(0)), template({"0/nu": jnp.zeros(3)})


def save(checkpoints: Checkpoints, step: int, metrics: dict[str, float] | None = None) -> None:
    optimizer = {"0/nu": jnp.full(3, float(step))}
    checkpoints.save(step, model=arrays(step), optimizer=optimizer, state=FACTS | {"at": step}, metrics=metrics)


def saved(directory: Path, *steps: int, **options: Any) -> Checkpoints:
    """Checkpoints of these steps, all written."""
    checkpoints = Checkpoints(directory, **options)
    for step in steps:
        save(checkpoints, step)
    checkpoints.close()
    return checkpoints


def is_as_saved(restored: Restored, step: int) -> bool:
    expected = arrays(step)
    return (
        restored.step == step
        and same(restored.model, expected)
        and same(restored.optimizer or {}, {"0/nu": jnp.full(3, float(step))})
        and restored.state == FACTS | {"at": step}
    )


def same(left: Arrays, right: Arrays) -> bool:
    def content(values: Arrays) -> dict[str, Any]:
        return {name: (str(x.dtype), x.shape, np.asarray(x).tobytes()) for name, x in values.items()}

    return content(left) == content(right)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def restore(checkpoints: Checkpoints, step: int) -> Restored:
    return checkpoints.restore(step, model=MODEL, optimizer=OPTIMIZER)


def restore_latest(checkpoints: Checkpoints) -> Restored | None:
    return checkpoints.restore_latest(model=MODEL, optimizer=OPTIMIZER)


def run_python(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """A process that runs `code` with this file's imports at hand."""
    paths = [str(Path(transformer_jax.__file__).parents[1]), str(Path(__file__).parent)]
    # Compiled programs are not kept: JAX warns where it cannot write one.
    always = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-P", "-c", f"from {Path(__file__).stem} import *\n{code}", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=os.environ | always | environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def test_every_type_comes_back_to_the_bit(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Checkpoints(tmp_path / "new" / "run") as checkpoints:
        save(checkpoints, 10, {"validation_bleu": 0.1 + 0.2})
    restored = restore(checkpoints, 10)
    assert is_as_saved(restored, 10)
    assert restored.metrics == {"validation_bleu": 0.1 + 0.2}
    assert checkpoints.restore(10, model=MODEL).optimizer is None
    assert capfd.readouterr() == ("", "")


def test_doubles_and_an_optimizer_without_arrays_come_back(tmp_path: Path) -> None:
    jax.config.update("jax_enable_x64", True)
    try:
        model = {"double": jnp.asarray([0.1, -0.0]), "long": jnp.asarray([2**40])}
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, model=model, optimizer={}, state={})
        restored = checkpoints.restore(1, model=template(model), optimizer={})
    finally:
        jax.config.update("jax_enable_x64", False)
    assert {str(value.dtype) for value in model.values()} == {"float64", "int64"}
    assert same(restored.model, model) and restored.optimizer == {}


def test_a_flipped_bit_anywhere_is_found_or_harmless(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 5)
    rng = np.random.default_rng(0)
    found = set()
    for file in files(tmp_path / "5"):
        good = file.read_bytes()
        for position in rng.integers(8 * len(good), size=12):
            bad = bytearray(good)
            bad[position // 8] ^= 1 << (position % 8)
            file.write_bytes(bad)
            try:
                assert is_as_saved(restore(checkpoints, 5), 5), (file, position)
            except CheckpointDamaged as error:
                assert "\n" not in str(error)
                found.add(file.relative_to(tmp_path / "5").parts[0])
        file.write_bytes(good)
    assert found == {"model", "optimizer", STATE}


@pytest.mark.parametrize("harm", ["truncate", "delete"])
def test_a_truncated_or_deleted_file_is_found_or_harmless(tmp_path: Path, harm: str) -> None:
    checkpoints = saved(tmp_path, 5)
    for file in files(tmp_path / "5"):
        good = file.read_bytes()
        if harm == "truncate":
            file.write_bytes(good[: len(good) // 2])
        else:
            file.unlink()
        if file.name == STATE or file.parent != tmp_path / "5":
            with pytest.raises(CheckpointDamaged):
                restore(checkpoints, 5)
        else:
            assert is_as_saved(restore(checkpoints, 5), 5)
        file.write_bytes(good)


def test_exchanged_files_and_steps_are_found(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)

    def exchange(left: Path, right: Path) -> None:
        left.rename(tmp_path / "aside")
        right.rename(left)
        (tmp_path / "aside").rename(right)

    one, two, *_ = {file.read_bytes(): file for file in files(tmp_path / "1" / "model")}.values()
    pairs = [(one, two), *((tmp_path / "1" / name, tmp_path / "2" / name) for name in ("", "model", STATE))]
    for pair in pairs:
        exchange(*pair)
        with pytest.raises(CheckpointDamaged):
            restore(checkpoints, 1)
        exchange(*pair)
    assert is_as_saved(restore(checkpoints, 1), 1)


def test_arrays_are_checked_as_they_arrive_on_the_device(tmp_path: Path) -> None:
    """Even where the files are those that were written: as if Orbax or a copy had changed a value on the way."""
    checkpoints = saved(tmp_path, 1, 2)
    shutil.rmtree(tmp_path / "1" / "model")
    shutil.copytree(tmp_path / "2" / "model", tmp_path / "1" / "model")
    write_facts(tmp_path / "1", json.loads((tmp_path / "1" / STATE).read_text())["facts"])
    with pytest.raises(CheckpointDamaged, match=r"model \S+ \(and \d more\) is not what was saved"):
        restore(checkpoints, 1)


def test_a_fingerprint_changes_with_any_element_and_any_exchange() -> None:
    values = np.arange(24, dtype=np.uint32).reshape(2, 3, 4)
    single = [values.copy() for _ in range(24 * 4)]
    for n, changed in enumerate(single):
        changed.flat[n // 4] ^= np.uint32(1 << (n % 4 * 10))
    exchanged = [values.copy() for _ in range(2, 24)]
    for n, changed in enumerate(exchanged, 2):
        changed.flat[[1, n]] = changed.flat[[n, 1]]
    named = {str(n): jnp.asarray(value) for n, value in enumerate([values, *single, *exchanged])}
    hashes, bad = fingerprints(named)
    assert len(set(hashes.values())) == len(named)
    assert bad == []


def test_infinity_and_nan_never_reach_a_checkpoint(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for value in (np.inf, -np.inf, np.nan):
            model = arrays(1) | {"decoder/layers/kernel/a": jnp.asarray([0, value], jnp.bfloat16)}
            with pytest.raises(FloatingPointError, match=r"^decoder/layers/kernel/a is not finite at step 1,"):
                checkpoints.save(1, model=model, optimizer={}, state={})
    assert list(tmp_path.iterdir()) == []


def test_saved_values_are_those_before_a_donation(tmp_path: Path) -> None:
    double = jax.jit(lambda x: x * 2, donate_argnums=0)
    value = jnp.ones((1024, 1024)) + 0
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, model={"x": value}, optimizer={}, state={})
        for _ in range(3):
            value = double(value)
    (restored,) = checkpoints.restore(1, model=template({"x": value})).model.values()
    assert np.array_equal(restored, np.ones((1024, 1024)))


def test_reading_creates_and_removes_nothing(tmp_path: Path) -> None:
    with Checkpoints(tmp_path / "none", best="x") as checkpoints:
        assert checkpoints.steps() == [] and checkpoints.best_step() is None
        with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
            restore(checkpoints, 1)
        assert restore_latest(checkpoints) is None
    assert not (tmp_path / "none").exists()

    saved(tmp_path, 1)
    unfinished = tmp_path / f"2{checkpoint.UNFINISHED}"
    shutil.copytree(tmp_path / "1", unfinished)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1] and is_as_saved(restore(checkpoints, 1), 1)
    assert unfinished.exists()


def test_a_save_that_was_killed_leaves_the_one_before(tmp_path: Path) -> None:
    child = run_python(
        """
import time
from orbax.checkpoint._src.path import atomicity

finalize = atomicity.AtomicRenameTemporaryPath.finalize

async def held(self):
    if self.get_final().name == "2":
        print("held", flush=True)
        time.sleep(600)
    await finalize(self)

atomicity.AtomicRenameTemporaryPath.finalize = held
checkpoints = saved(Path(sys.argv[1]), 1)
save(checkpoints, 2)
checkpoints.wait()
""",
        tmp_path,
    )
    assert child.stdout is not None and child.stderr is not None
    try:
        assert child.stdout.readline() == "held\n", child.stderr.read()
        unfinished = tmp_path / f"2{checkpoint.UNFINISHED}"
        assert (unfinished / STATE).exists()
    finally:
        child.kill()
        child.communicate()

    with Checkpoints(tmp_path) as checkpoints:
        restored = restore_latest(checkpoints)
        assert restored is not None and is_as_saved(restored, 1)
        assert not unfinished.exists()
        save(checkpoints, 2)
    assert checkpoints.steps() == [1, 2]


def test_damaged_checkpoints_are_set_aside_with_a_line_each(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    checkpoints = saved(tmp_path, 1, 2, 3)
    (tmp_path / "damaged" / "3").mkdir(parents=True)
    (tmp_path / "3" / STATE).unlink()
    largest = max(files(tmp_path / "2" / "model"), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    restored = restore_latest(checkpoints)
    assert restored is not None and is_as_saved(restored, 1)
    assert checkpoints.steps() == [1]
    assert sorted(folder.name for folder in (tmp_path / "damaged").iterdir()) == ["2", "3", "3-2"]
    first, second = capfd.readouterr().err.splitlines()
    assert first.startswith(f"warning: {tmp_path / '3'} is damaged: ")
    assert second == (
        f"warning: {tmp_path / '2'} is damaged: {largest.relative_to(tmp_path / '2')} is not what was saved; "
        f"it was moved to {tmp_path / 'damaged'}"
    )
    save(checkpoints, 2)
    checkpoints.close()
    assert is_as_saved(restore(checkpoints, 2), 2)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    for step in (1, 2):
        (tmp_path / str(step) / STATE).write_text("{}")
    for _ in range(2):
        with pytest.raises(CheckpointDamaged, match="no checkpoint in .* is whole; to start anew, remove .*damaged$"):
            restore_latest(checkpoints)


class Failing:
    """A function that fails the first `times` it is called."""

    def __init__(self, real: Any, error: Exception, times: int):
        self.real, self.error, self.left = real, error, times

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left >= 0:
            raise self.error
        return self.real(*arguments, **options)


@pytest.mark.parametrize(
    ("where", "name"),
    [(checkpoint_folder, "file_fingerprint"), (Path, "read_bytes"), (ocp.StandardCheckpointHandler, "restore")],
)
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ESTALE, "Stale file handle"), ValueError("UNKNOWN: Error reading [os_error_code='116']")],
)
def test_a_failed_read_is_tried_again_and_never_called_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, error: Exception
) -> None:
    checkpoints = saved(tmp_path, 1, 2)
    monkeypatch.setattr(checkpoint_folder, "PAUSES", (0, 0))
    failing = Failing(getattr(where, name), error, 2)
    with monkeypatch.context() as patched:
        patched.setattr(where, name, lambda *arguments, **options: failing(*arguments, **options))
        restored = restore_latest(checkpoints)
        assert restored is not None and is_as_saved(restored, 2)
        failing.left = 3
        with pytest.raises(OSError, match=r"2 cannot be read in 3 tries, and is left as it is: Stale file handle$"):
            restore_latest(checkpoints)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_nothing_is_deleted_while_the_best_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(checkpoint_folder, "PAUSES", ())
    with Checkpoints(tmp_path, keep=1, best="bleu") as checkpoints:
        save(checkpoints, 1, {"bleu": 9.0})
        save(checkpoints, 2, {"bleu": 1.0})
        with monkeypatch.context() as patched:
            patched.setattr(Path, "read_bytes", Failing(None, OSError(errno.EIO, "Input/output error"), 9))
            checkpoints.wait()
        assert checkpoints.steps() == [1, 2]
    assert capfd.readouterr().err.startswith("warning: no old checkpoint is deleted now: ")
    with Checkpoints(tmp_path, keep=1, best="bleu") as checkpoints:
        save(checkpoints, 3, {"bleu": 2.0})
    assert checkpoints.steps() == [1, 3]


def test_a_directory_whose_name_is_no_utf8_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"lat\udce9 is no UTF-8"):
        Checkpoints(tmp_path / os.fsdecode(b"lat\xe9"))


def test_arrays_of_another_model_are_refused_and_not_called_damaged(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    other = MODEL | {"count": jax.ShapeDtypeStruct((2,), jnp.uint32)}
    for read in (checkpoints.restore_latest, lambda **items: checkpoints.restore(1, **items)):
        with pytest.raises(ValueError, match=r"count, which is uint32\[\] there and uint32\[2\] here") as caught:
            read(model=other, optimizer=OPTIMIZER)
        assert caught.type is ValueError
    with pytest.raises(ValueError, match=r"bytes \(and 1 more\), which is uint8\[5\] there and absent here"):
        restored = {name: kind for name, kind in MODEL.items() if name not in ("bytes", "count")}
        checkpoints.restore(1, model=restored)
    assert checkpoints.steps() == [1]


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    def kept(scores: list[float | None], **options: Any) -> tuple[list[int], int | None]:
        directory = tmp_path / f"{scores}{options}"
        with Checkpoints(directory, **options) as checkpoints:
            for step, score in enumerate(scores, 1):
                save(checkpoints, step, None if score is None else {"bleu": float(score), "other": -1.0})
        return checkpoints.steps(), checkpoints.best_step()

    assert kept([3, 2, 1], keep=2) == ([2, 3], None)
    assert kept([1, 3, 3, 2, None, None], keep=2, best="bleu") == ([2, 5, 6], 2)
    assert kept([2, 1, 1, None], keep=1, best="bleu", higher_is_better=False) == ([2, 4], 2)
    assert kept([np.inf, np.nan, 2, 1], keep=1, best="bleu") == ([3, 4], 3)
    assert kept([None, None], keep=1, best="bleu") == ([2], None)
    assert kept([1, 2], keep=1, best="absent") == ([2], None)
    for name in ("0009", "\u0667", "\u00b2"):  # folders that no checkpoint has
        (tmp_path / "others" / name).mkdir(parents=True)
    assert Checkpoints(tmp_path / "others").steps() == []
    with pytest.raises(ValueError, match=r"not 0; set train.keep"):
        Checkpoints(tmp_path, keep=0)


def test_the_last_checkpoint_stays_until_the_next_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        assert Checkpoints(tmp_path).steps() == [1]
        raise OSError(28, "No space left on device")

    checkpoints = saved(tmp_path, 1, keep=1)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "write_facts", full)
        save(checkpoints, 2)
        with pytest.raises(OSError, match=r"^no checkpoint could be written to .*No space left on device$"):
            save(checkpoints, 3)
    assert caplog.text == ""
    assert checkpoints.steps() == [1]
    save(checkpoints, 2)
    checkpoints.close()
    assert checkpoints.steps() == [2]


def test_a_directory_that_cannot_be_written_is_an_error_of_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    threads = set(threading.enumerate())
    checkpoints = Checkpoints(tmp_path / "file" / "checkpoints")
    with pytest.raises(OSError, match="^no checkpoint could be written to .*"):
        save(checkpoints, 1)
        checkpoints.wait()
    checkpoints.close()
    assert capfd.readouterr() == ("", "")
    for thread in set(threading.enumerate()) - threads:
        thread.join(10)
        assert not thread.is_alive(), f"{thread} would hold the process at its end"


def test_writes_that_fail_are_one_error_and_print_nothing(tmp_path: Path) -> None:
    """As on a full disk: no file may grow beyond 20,000 bytes, and many are written at once."""
    child = run_python(
        """
import gc, resource
checkpoints = Checkpoints(Path(sys.argv[1]))
random = np.random.default_rng(0)
model = {f"a/{n}": jnp.asarray(random.normal(size=(40, 64)), jnp.float32) for n in range(20)}
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
for step in range(10):
    try:
        checkpoints.save(step, model=model, optimizer=model, state={})
        checkpoints.wait()
    except OSError as error:
        print(error)
    gc.collect()  # what asyncio has to say of a write, it says when the write is collected
""",
        tmp_path,
    )
    output, errors = child.communicate(timeout=600)
    assert errors == "" and child.returncode == 0
    assert output.splitlines() == [f"no checkpoint could be written to {tmp_path}: File too large"] * 10


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, 1)
    written = (tmp_path / "1" / STATE).stat().st_mtime_ns
    save(checkpoints, 2)
    save(checkpoints, 2)
    checkpoints.save(1, model={"other": jnp.zeros(1)}, optimizer={}, state={})
    checkpoints.close()
    assert checkpoints.steps() == [1, 2]
    assert (tmp_path / "1" / STATE).stat().st_mtime_ns == written
    assert is_as_saved(restore(checkpoints, 1), 1)


def test_average_is_the_mean_of_the_parameters(tmp_path: Path) -> None:
    def model(step: int) -> Arrays:
        rng = np.random.default_rng(step)
        return {"kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), "half": jnp.asarray(step, jnp.bfloat16)}

    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, model=model(step), optimizer={}, state={})
    mean = average(checkpoints, [1, 2, 3], template(model(1)))
    expected = np.mean([np.asarray(model(step)["kernel"], np.float64) for step in (1, 2, 3)], axis=0)
    np.testing.assert_allclose(mean["kernel"], expected, rtol=1e-6, atol=1e-7)
    assert mean["half"] == 2 and mean["half"].dtype == jnp.bfloat16
    assert same(average(checkpoints, [2], template(model(1))), model(2))
    with pytest.raises(ValueError, match="no checkpoints to average"):
        average(checkpoints, [], template(model(1)))


def test_a_checkpoint_of_one_device_restores_on_eight_and_back(tmp_path: Path) -> None:
    def values() -> Arrays:
        rng = np.random.default_rng(0)
        shapes = {"matrix": (8, 16), "vector": (24,), "scalar": ()}
        return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, model=values(), optimizer={}, state={})
    child = run_python(
        """
from jax.sharding import NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((2, 4), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
cut = {"matrix": ((8, 16), P("data", "tensor")), "vector": ((24,), P(("tensor", "data"))), "scalar": ((), P())}
wanted = {
    name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))
    for name, (shape, spec) in cut.items()
}
with Checkpoints(Path(sys.argv[1])) as checkpoints:
    model = checkpoints.restore(1, model=wanted).model
    assert all(len(value.sharding.device_set) == 8 for value in model.values())
    assert not model["matrix"].is_fully_replicated
    checkpoints.save(2, model=model, optimizer={}, state={})
""",
        tmp_path,
        XLA_FLAGS="--xla_force_host_platform_device_count=8",
    )
    output, errors = child.communicate(timeout=600)
    assert (child.returncode, output, errors) == (0, "", "")
    restored = checkpoints.restore(2, model=template(values())).model
    assert same(restored, values())

    def saved_fingerprints(step: int) -> Any:
        return json.loads((tmp_path / str(step) / STATE).read_text())["facts"]["arrays"]

    assert saved_fingerprints(1) == saved_fingerprints(2)


def test_parameters_are_found_under_the_names_of_version_0_1_0(tmp_path):
    old = {"positions/table": jnp.arange(3.0), "embedding_norm/scale": jnp.ones(2), "token_types": jnp.zeros(2)}
    moments = {f"0/mu/{name}": value + 1 for name, value in old.items()}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, model=old, optimizer=moments, state=FACTS)
    checkpoints.close()
    names = {
        "encoder_input/positions/table": "positions/table",
        "decoder_input/positions/table": "positions/table",
        "encoder_input/norm/scale": "embedding_norm/scale",
        "encoder_input/token_types": "token_types",
    }
    model = {name: old[former] for name, former in names.items()}
    optimizer = {f"0/mu/{name}": value + 1 for name, value in model.items()}
    restored = checkpoints.restore(1, model=template(model), optimizer=template(optimizer))
    assert same(restored.model, model) and same(restored.optimizer or {}, optimizer)
