"""Exported programs run in a process that does not have the package, on any number of rows."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from transformer_jax.interop.stablehlo import export_programs
from transformer_jax.models.decoder_only import gpt2, llama
from transformer_jax.models.encoder_decoder import base
from transformer_jax.models.encoder_only import bert
from transformer_jax.nn.parameters import named_parameters

SIZE = {"d_model": 16, "num_heads": 2, "d_ff": 32, "num_layers": 2, "vocab_size": 21}
LENGTH, WIDTH = np.array([6, 3, 5], np.int32), 6
TOKENS = np.random.default_rng(0).integers(3, 21, (3, WIDTH)).astype(np.int32)
LEFT = np.where(np.arange(WIDTH) >= WIDTH - LENGTH[:, None], TOKENS, 0).astype(np.int32)
ELSEWHERE = """
import sys
from pathlib import Path
import jax, numpy as np
from jax import export
folder = Path(sys.argv[1])
arrays = dict(np.load(folder / "arrays.npz"))
parameters = {name[2:]: array for name, array in arrays.items() if name.startswith("p:")}
programs = {file.stem: export.deserialize(bytearray(file.read_bytes())).call for file in folder.glob("*.stablehlo")}
found = {}
for rows in (1, 3):
    given = {name: array[:rows] for name, array in arrays.items() if not name.startswith("p:")}
    inputs = [given[name] for name in ("a", "b", "c") if name in given]
    found[f"forward{rows}"] = programs["forward"](parameters, *inputs)
    if "start" in programs:
        logits, cache = programs["start"](parameters, given["prompt"], given["lengths"])
        steps = [] if logits is None else [logits]
        for column in given["written"].T:
            logits, cache = programs["step"](parameters, cache, column)
            steps.append(logits)
        found[f"steps{rows}"] = np.stack(steps, axis=1)
assert not any(name.startswith("transformer_jax") for name in sys.modules)
np.savez(folder / "found.npz", **found)
"""


def elsewhere(config, folder, **arrays):
    pytest.importorskip("flatbuffers", reason="writes programs")
    model = config.build(0)
    for name, program in export_programs(config, WIDTH, platforms=("cpu",)).items():
        (folder / f"{name}.stablehlo").write_bytes(program.serialize())
    parameters = {f"p:{name}": np.asarray(value) for name, value in named_parameters(model).items()}
    np.savez(folder / "arrays.npz", **parameters, **arrays)
    done = subprocess.run([sys.executable, "-I", "-c", ELSEWHERE, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return model, np.load(folder / "found.npz")


def assert_rows(found, name, expected):
    for rows in (1, 3):
        np.testing.assert_allclose(found[f"{name}{rows}"], expected[:rows], atol=1e-5)


@pytest.mark.slow
def test_an_encoder_gives_its_outputs(tmp_path):
    config = bert(**SIZE, max_length=16, head="sequence", num_outputs=3)
    model, found = elsewhere(config, tmp_path, a=TOKENS, b=LENGTH)
    assert_rows(found, "forward", model(jnp.array(TOKENS), lengths=jnp.array(LENGTH)))


@pytest.mark.slow
def test_a_decoder_reads_prompts_and_goes_on_with_a_cache(tmp_path):
    config = llama(**SIZE, num_kv_heads=1)
    written = TOKENS[:, :2]
    arrays = {"a": TOKENS, "prompt": LEFT, "lengths": LENGTH, "written": written}
    model, found = elsewhere(config, tmp_path, **arrays)
    assert_rows(found, "forward", model(jnp.array(TOKENS))[..., :21])
    for row, length in enumerate(LENGTH):
        whole = np.concatenate([TOKENS[row, WIDTH - length :], written[row]])
        expected = model(jnp.array(whole)[None])[0, length - 1 :, :21]
        np.testing.assert_allclose(found["steps3"][row], expected, atol=1e-4)


@pytest.mark.slow
def test_an_encoder_decoder_writes_behind_its_source(tmp_path):
    config = base(**SIZE, source_vocab_size=21)
    arrays = {"a": TOKENS, "b": LENGTH, "c": TOKENS[:, ::-1], "prompt": TOKENS, "lengths": LENGTH}
    model, found = elsewhere(config, tmp_path, **arrays, written=TOKENS[:, ::-1])
    expected = model(jnp.array(TOKENS), jnp.array(arrays["c"]), source_lengths=jnp.array(LENGTH))[..., :21]
    assert_rows(found, "forward", expected)
    assert_rows(found, "steps", expected)


@pytest.mark.parametrize("config", [llama(**SIZE), bert(**SIZE, max_length=16)])
def test_programs_are_for_all_platforms(config):
    assert {program.platforms for program in export_programs(config, 4).values()} == {("cpu", "cuda", "tpu")}


def test_lengths_that_the_positions_do_not_reach_are_refused():
    with pytest.raises(ValueError, match="the model reaches 16 tokens, not 17"):
        export_programs(bert(**SIZE, max_length=16), 17)
    with pytest.raises(ValueError, match="the model reaches 16 tokens, not 20"):
        export_programs(gpt2(**SIZE, max_length=16), 10)
    with pytest.raises(ValueError, match="the model reaches 1,048,576 tokens, not 1,000,000,000,000"):
        export_programs(llama(**SIZE), 10**12)
