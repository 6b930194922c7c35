import pytest

from transformer_jax.parallel.distributed import find_cluster, in_turn, tpu_hosts
from transformer_jax.parallel.mesh import MeshConfig, make_mesh
from transformer_jax.training.step import batch_parts

EXPLICIT = {"JAX_COORDINATOR_ADDRESS": "host-0:1234", "JAX_NUM_PROCESSES": "4"}
ARGUMENTS = {"coordinator_address": "host-0:1234", "num_processes": 4}


@pytest.mark.parametrize(
    ("environment", "hosts", "name", "arguments"),
    [
        ({**EXPLICIT, "JAX_PROCESS_ID": "3"}, 1, "explicit addresses", {**ARGUMENTS, "process_id": 3}),
        ({**EXPLICIT, "JOB_COMPLETION_INDEX": "2"}, 1, "a Kubernetes job", {**ARGUMENTS, "process_id": 2}),
        (
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "node[1-2]"},
            1,
            "SLURM",
            {"cluster_detection_method": "slurm"},
        ),
        (
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1"},
            1,
            "Open MPI",
            {"cluster_detection_method": "ompi"},
        ),
        ({}, 4, "a Cloud TPU with several hosts", {}),
        # Explicit addresses win over what a cluster says.
        (
            {**EXPLICIT, "JAX_PROCESS_ID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NODELIST": "a"},
            4,
            "explicit addresses",
            0,
        ),
    ],
)
def test_what_the_environment_says_of_other_processes_is_found(environment, hosts, name, arguments):
    found = find_cluster(environment, lambda: hosts)
    assert found is not None and found.name == name
    assert found.arguments == (arguments or found.arguments)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"JOB_COMPLETION_INDEX": "0"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "node1"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"},  # the batch script itself
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {**EXPLICIT, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
    ],
)
def test_a_process_alone_joins_nobody(environment):
    assert find_cluster(environment, lambda: 1) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (EXPLICIT, "JAX_PROCESS_ID is a number, not ''"),
        ({**EXPLICIT, "JAX_PROCESS_ID": "4"}, "below JAX_NUM_PROCESSES 4, not 4"),
        ({**EXPLICIT, "JAX_PROCESS_ID": "one"}, "a number, not 'one'"),
        ({**EXPLICIT, "JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "host"}, "HOST:PORT, not 'host'"),
        ({"JAX_COORDINATOR_ADDRESS": "host:1"}, "go together"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "set JAX_COORDINATOR_ADDRESS"),
    ],
)
def test_half_an_address_is_refused(environment, message):
    with pytest.raises(ValueError, match=message):
        find_cluster(environment, lambda: 1)


def test_a_process_alone_is_the_first_and_hears_its_own_error():
    assert in_turn(lambda: 3, lambda: 4) == 3

    def fail():
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        in_turn(fail, lambda: None)


@pytest.mark.parametrize(
    ("files", "environment", "metadata", "hosts"),
    [
        ([], {"TPU_WORKER_HOSTNAMES": "a,b"}, "", 1),  # no TPU here
        (["accel0"], {}, "", 1),  # Colab: nobody to ask
        (["vfio/0"], {}, "unknown:unknown:10.0.0.1", 1),
        (["vfio/0"], {}, "unknown:unknown:10.0.0.1,unknown:unknown:10.0.0.2", 2),
        (["accel0"], {"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, "", 4),
        (["accel0"], {"TPU_WORKER_HOSTNAMES": "a,b", "MEGASCALE_NUM_SLICES": "3"}, "", 6),
    ],
)
def test_hosts_of_a_tpu_are_counted_with_all_slices(tmp_path, files, environment, metadata, hosts):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert tpu_hosts(environment, tmp_path, lambda name: metadata) == hosts


def test_a_mesh_that_leaves_out_a_process_is_refused():
    class Device:
        def __init__(self, number):
            self.id, self.process_index, self.platform = number, number // 4, "cpu"

    with pytest.raises(ValueError, match="leaves processes without a device; make it as large as all 8"):
        make_mesh(MeshConfig(data=4), [Device(number) for number in range(8)])


@pytest.mark.parametrize(("config", "number"), [(MeshConfig(data=4, fsdp=2), 8), (MeshConfig(data=2, tensor=4), 2)])
def test_one_process_holds_all_parts_of_a_batch(config, number):
    mesh = make_mesh(config)
    parts, found = batch_parts(mesh)
    assert (parts, found) == (list(range(number)), number)
