"""Several processes, on one host or many, that train one run together."""

import itertools
import os
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, TypeVar, cast

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
"""Explicit addresses: HOST:PORT of the first process, the number of processes, and the index of this one, from 0."""
LONGEST = 24 * 3600
"""Seconds that a process waits for the first one to read and tokenise the text."""

T = TypeVar("T")

_keys = itertools.count()


class Cluster(NamedTuple):
    """An environment that starts several processes of one run."""

    name: str
    """Its name in messages."""
    arguments: dict[str, Any]
    """Arguments of `jax.distributed.initialize`, which detects the others."""


def find_cluster(environment: Mapping[str, str], tpu_hosts: Callable[[], int]) -> Cluster | None:
    """Finds the cluster that started this process as one of several; returns None if it is alone.

    JAX can join processes but does not say whether there are any, and would give the only task of a SLURM job one of
    its GPUs. `tpu_hosts` counts the hosts of a Cloud TPU and is called last. Raises ValueError for half of an address.
    """
    index = environment.get(INDEX) or environment.get("JOB_COMPLETION_INDEX", "")
    if ADDRESS in environment and COUNT in environment:
        address = environment[ADDRESS]
        if not re.fullmatch(r"\S+:\d+", address):
            raise ValueError(f"{ADDRESS} is HOST:PORT, not {address!r}")
        for name, text in ((COUNT, environment[COUNT]), (INDEX, index)):
            if not text.isdecimal():
                raise ValueError(f"{name} is a number, not {text!r}")
        count, own = int(environment[COUNT]), int(index)
        if own >= count:
            raise ValueError(f"{INDEX} is below {COUNT} {count}, not {own}")
        name = "explicit addresses" if INDEX in environment else "a Kubernetes job"
        arguments = {"coordinator_address": address, "num_processes": count, "process_id": own}
        return Cluster(name, arguments) if count > 1 else None
    if ADDRESS in environment or COUNT in environment or INDEX in environment:
        raise ValueError(f"{ADDRESS}, {COUNT} and {INDEX} go together")
    if int(environment.get("SLURM_NTASKS", "1")) > 1 and "SLURM_STEP_NODELIST" in environment:
        return Cluster("SLURM", {"cluster_detection_method": "slurm"})
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        if "OMPI_MCA_orte_hnp_uri" not in environment:
            raise ValueError(f"this Open MPI does not say where its first process is: set {ADDRESS}, {COUNT}, {INDEX}")
        return Cluster("Open MPI", {"cluster_detection_method": "ompi"})
    return Cluster("a Cloud TPU with several hosts", {}) if tpu_hosts() > 1 else None


def tpu_hosts(
    environment: Mapping[str, str] = os.environ,
    device_files: Path = Path("/dev"),
    metadata: Callable[[str], str] | None = None,
) -> int:
    """Counts the hosts of this host's Cloud TPU in all of its slices; 1 without a TPU."""
    if not any(device_files.glob("accel[0-9]*")) and not any(device_files.glob("vfio/[0-9]*")):
        return 1
    # GKE names the workers; on a TPU VM the metadata server does.
    workers = environment.get("TPU_WORKER_HOSTNAMES") or (metadata or _metadata)("worker-network-endpoints")
    return int(environment.get("MEGASCALE_NUM_SLICES") or 1) * len(workers.split(","))


def start(lost_process_timeout: int) -> None:
    """Joins the other processes of this run, if any; to be called before JAX is used.

    Prints the cluster's name, and silences the standard output of all processes but the first. They wait five minutes
    for each other; when one is lost after that, the others end within `lost_process_timeout` seconds. Raises ValueError
    for an incomplete address.
    """
    cluster = None if jax.distributed.is_initialized() else find_cluster(os.environ, tpu_hosts)
    if cluster is None:
        return
    print(f"{cluster.name}: joining the other processes", flush=True)
    handler = signal.getsignal(signal.SIGTERM)
    jax.distributed.initialize(**cluster.arguments, heartbeat_timeout_seconds=lost_process_timeout)
    signal.signal(signal.SIGTERM, handler)  # JAX has installed one of its own below Python's
    if jax.process_index() > 0:
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    devices = f"{jax.device_count()} devices, {jax.local_device_count()} of them here"
    print(f"process 1 of {jax.process_count()}, {devices}", flush=True)


def end(status: int) -> None:
    """Ends this process at once if it failed and is one of several; a regular exit would wait for the others."""
    if status and jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def leave() -> None:
    """Disconnects from the other processes; all make this call together."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def is_first() -> bool:
    """Whether this is the process that writes files and prints."""
    return jax.process_index() == 0


def in_turn(first: Callable[[], T], others: Callable[[], T]) -> T:
    """Calls `first` in the first process, and after it `others` in all others; returns the result.

    An OSError or ValueError in one process is raised there, and as a ValueError in all others.
    """
    if jax.process_count() == 1:
        return first()
    result, problem = None, None
    for work in (first, others):
        if is_first() == (work is first):
            try:
                result = work()
            except (OSError, ValueError, OverflowError) as error:
                problem = error
        barrier()
        if agree(int(problem is not None)):
            leave()
            raise problem or ValueError("another process failed; its message says why")
    return cast(T, result)


def barrier() -> None:
    """Waits for all processes without occupying a device; signals are handled meanwhile."""
    if jax.process_count() == 1:
        return
    wait = partial(ocp.multihost.get_barrier_sync_fn(), key=f"transformer_jax/{next(_keys)}", timeout_ms=LONGEST * 1000)
    waiting: Future[None] = Future()

    def meet() -> None:
        try:
            waiting.set_result(wait())
        except BaseException as error:
            waiting.set_exception(error)

    # A daemon, so that a signal can end the process meanwhile; an executor's thread would be waited for.
    Thread(target=meet, daemon=True).start()
    while not waiting.done():
        time.sleep(0.01)
    waiting.result()


def agree(number: int) -> int:
    """Returns the largest number that any process gives; waits for all of them."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def to_host(tree: Any) -> Any:
    """Copies whole arrays, with the shards of other processes, to NumPy; all processes call this together."""

    def whole(array: Any) -> np.ndarray:
        here = array.is_fully_addressable or array.is_fully_replicated
        return np.asarray(array if here else multihost_utils.process_allgather(array, tiled=True))

    return jax.tree.map(whole, tree)


class Agreement:
    """The largest number that any process gave one call earlier, so that no device waits for it."""

    def __init__(self, mesh: Mesh):
        self._where = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._largest = jax.jit(lambda numbers: numbers.max(), out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._previous: Any = 0

    def __call__(self, number: int) -> int:
        """Gives a number and returns the largest of the call before, at first 0; all processes make the same calls."""
        shape, own = (self._where.mesh.size,), np.full(1, number, np.int32)
        numbers = jax.make_array_from_callback(shape, self._where, lambda _: own)
        previous, self._previous = self._previous, self._largest(numbers)
        return int(previous)


def _metadata(name: str) -> str:
    """Reads an attribute of this host from Google's metadata server, if there is such a server."""
    url = f"http://{os.environ.get('GCE_METADATA_IP', 'metadata.google.internal')}/computeMetadata/v1/instance"
    request = urllib.request.Request(f"{url}/attributes/{name}", headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode()
    except OSError:
        return ""
