"""A published model of a gigabyte in shards, read onto eight devices: memory beside the parameters, and speed.

    python benchmarks/loading.py [--directory DIRECTORY]

Writes a random Llama of 268 M float32 parameters in shards of 200 MB, unless DIRECTORY holds one, and reads it in a
process of its own onto a mesh of eight CPU devices that share out every matrix (fsdp). Counted is the memory of the
process that is its own (anonymous; the pages of mapped files are the system's to drop), every 2 ms. Beside it stands a
plain copy of the files, which are in the system's cache both times.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from transformer_jax import llama
from transformer_jax.interop import tensor_files
from transformer_jax.interop.published import shapes_of, write_published

CONFIG = {"d_model": 1024, "num_heads": 16, "num_kv_heads": 8, "d_ff": 4096, "num_layers": 14, "vocab_size": 32_000}
READ = """
import json, sys, threading, time
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 8)
from transformer_jax import MeshConfig
from transformer_jax.interop.published import open_published
from transformer_jax.nn.parameters import named_parameters
from transformer_jax.parallel.mesh import make_mesh
from transformer_jax.training.step import abstract_model, model_shardings

def anonymous():
    resident, shared = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    return (resident - shared) * 4096

published = open_published(Path(sys.argv[1]))
places = model_shardings(abstract_model(published.config), make_mesh(MeshConfig(fsdp=8)))
jax.block_until_ready(jax.device_put(0.0))
before, peak, done = anonymous(), 0, threading.Event()

def watch():
    global peak
    while not done.is_set():
        peak = max(peak, anonymous())
        time.sleep(0.002)

watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
began = time.perf_counter()
parameters = named_parameters(jax.block_until_ready(published.model(places)))
seconds = time.perf_counter() - began
done.set()
watcher.join()
sizes = [value.nbytes for value in parameters.values()]
assert all(len(value.addressable_shards) == 8 for value in parameters.values())
print(json.dumps({
    "seconds": seconds, "bytes": sum(sizes), "largest": max(tensor.nbytes for tensor in published.tensors.values()),
    "peak": peak - before,
}))
"""


def write(directory: Path) -> None:
    """A random model; the same numbers in every layer would do as well."""
    tensor_files.LARGEST_SHARD = 200 * 10**6
    config = llama(**CONFIG)
    random = np.random.default_rng(0)
    shapes = shapes_of(config).padded
    write_published(directory, config, {name: random.random(shape, np.float32) for name, shape in shapes.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--directory", type=Path, help="a published model, written if it is not there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        directory = options.directory or Path(folder) / "model"
        if not directory.exists():
            write(directory)
        files = sorted(directory.glob("*.safetensors"))
        total = sum(file.stat().st_size for file in files)
        began = time.perf_counter()
        for file in files:
            shutil.copyfile(file, Path(folder) / "copy")
        copied = time.perf_counter() - began
        command = [sys.executable, "-c", READ, str(directory)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    found = json.loads(done.stdout)
    beside = found["peak"] - found["bytes"]
    speed, plain = (total / 1e6 / seconds for seconds in (found["seconds"], copied))
    print(f"{len(files)} files, {total / 1e6:,.0f} MB; parameters {found['bytes'] / 1e6:,.0f} MB on eight devices")
    print(f"read in {found['seconds']:.2f} s, {speed:,.0f} MB/s; copied with {plain:,.0f} MB/s")
    print(
        f"memory beside the parameters {beside / 1e6:,.0f} MB; the largest tensor has {found['largest'] / 1e6:,.0f} MB"
    )


if __name__ == "__main__":
    main()
