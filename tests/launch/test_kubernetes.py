"""launch/kubernetes.sh and the JobSet that it fills in."""

import re
from typing import Any

import pytest
import yaml

NEEDED = ["--name", "first", "--image", "registry.example/a&b:1", "--claim", "runs"]


def manifest(machine: Any, *arguments: str) -> dict[str, Any]:
    result = machine.launch("kubernetes.sh", *NEEDED, "--dry-run", *arguments)
    assert result.returncode == 0, result.stderr
    assert machine.called() == []
    return yaml.safe_load(result.stdout)


def job(jobset: dict[str, Any]) -> dict[str, Any]:
    (replicated,) = jobset["spec"]["replicatedJobs"]
    return replicated["template"]["spec"]


def pod(jobset: dict[str, Any]) -> dict[str, Any]:
    return job(jobset)["template"]["spec"]


def as_kubernetes_reads(argument: str) -> str:
    """Arguments of a container: $$ is $, and $(NAME) a variable, of which none may be left."""
    assert not re.search(r"(?<!\$)(\$\$)*\$\(", argument)
    return argument.replace("$$", "$")


def test_the_container_trains_with_every_argument_as_given(machine: Any, arguments: list[str]):
    awkward = [*arguments, "--a", "${NAME} ${ARGUMENTS} $$(x) $$ \\$ \\n yes: no # {}", "--b", "null", "--c", "1e-3"]
    (container,) = pod(manifest(machine, "experiments/mine.py", *awkward))["containers"]
    command = ["train", "experiments/mine.py", "--workdir", "/storage/runs/first", *awkward]
    assert [as_kubernetes_reads(argument) for argument in container["args"]] == command
    assert "command" not in container
    assert container["image"] == "registry.example/a&b:1"


def test_every_pod_finds_the_first_one_by_its_name(machine: Any):
    jobset = manifest(machine, "--hosts", "4", "x.py")
    name, (replicated,) = jobset["metadata"]["name"], jobset["spec"]["replicatedJobs"]
    environment = {entry["name"]: entry["value"] for entry in pod(jobset)["containers"][0]["env"]}
    # JobSet's names: <jobset>-<replicated job>-<job>-<pod>.<subdomain>, the subdomain being the JobSet's name.
    address = f"{name}-{replicated['name']}-0-0.{name}:8476"
    assert environment == {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "4"}
    assert replicated["replicas"] == 1
    assert (job(jobset)["completionMode"], job(jobset)["completions"], job(jobset)["parallelism"]) == ("Indexed", 4, 4)
    assert "network" not in jobset["spec"]


def outcome(jobset: dict[str, Any], status: int, disrupted: bool = False) -> str:
    """What Kubernetes and JobSet do when a container ends like this."""
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for index, rule in enumerate(job(jobset)["podFailurePolicy"]["rules"]):
        codes = rule.get("onExitCodes", {"values": []})
        disruption = {"type": "DisruptionTarget", "status": "True"} in rule.get("onPodConditions", [])
        if status in codes["values"] or (disrupted and disruption):
            reason = "PodFailurePolicy"
            what = f"failed with exit code {status}" if "onExitCodes" in rule else "has condition DisruptionTarget"
            message = f"Container train for pod default/first {what} matching {rule['action']} rule at index {index}"
            break
    for rule in jobset["spec"]["failurePolicy"]["rules"]:
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(pattern, message) for pattern in patterns):
            return rule["action"]
    return "RestartJobSet"


def test_mistakes_end_the_run_preemptions_never_count_and_crashes_do(machine: Any):
    jobset = manifest(machine, "--max-restarts", "7", "x.py")
    assert outcome(jobset, 2) == "FailJobSet"
    assert outcome(jobset, 143) == outcome(jobset, 143, disrupted=True) == "RestartJobSetAndIgnoreMaxRestarts"
    assert outcome(jobset, 137, disrupted=True) == "RestartJobSetAndIgnoreMaxRestarts"
    assert {outcome(jobset, status) for status in (1, 134, 137, 139)} == {"RestartJobSet"}
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 7
    assert jobset["spec"]["failurePolicy"]["restartStrategy"] == "BlockingRecreate"
    assert job(jobset)["backoffLimit"] == 0
    assert pod(jobset)["restartPolicy"] == "Never"
    assert pod(jobset)["terminationGracePeriodSeconds"] >= 120


@pytest.mark.parametrize(
    ("options", "limits", "selector", "user"),
    [
        ([], {}, {}, 1000),
        (["--gpus", "8"], {"nvidia.com/gpu": 8}, {}, 1000),
        (["--tpus", "4", "--select", "a/b=4x4", "--select", "c=d"], {"google.com/tpu": 4}, {"a/b": "4x4", "c": "d"}, 0),
    ],
)
def test_pods_ask_for_accelerators_and_nodes(machine: Any, options: Any, limits: Any, selector: Any, user: int):
    spec = pod(manifest(machine, *options, "x.py"))
    assert spec["containers"][0]["resources"]["limits"] == limits
    assert spec["nodeSelector"] == selector
    assert spec["securityContext"]["runAsUser"] == user


def test_the_run_is_kept_on_the_claimed_volume(machine: Any):
    spec = pod(manifest(machine, "x.py"))
    mounted = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
    (claimed,) = [volume for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
    assert claimed["persistentVolumeClaim"] == {"claimName": "runs"}
    assert mounted[claimed["name"]] == "/storage"
    assert mounted.keys() == {volume["name"] for volume in spec["volumes"]}


def test_the_printed_manifest_is_the_applied_one(machine: Any, arguments: list[str]):
    machine.program("kubectl", '[[ " $* " != *" apply "* ]] || cat >"$CALLS/../applied"')
    assert machine.launch("kubernetes.sh", *NEEDED, "--namespace", "us", "x.py", *arguments).returncode == 0
    assert machine.called()[-1] == ["kubectl", "--namespace=us", "apply", "-f", "-"]
    printed = machine.launch("kubernetes.sh", *NEEDED, "--dry-run", "x.py", *arguments).stdout
    assert (machine.directory / "applied").read_text() == printed


@pytest.mark.parametrize(("state", "replaced"), [("Failed", True), ("Completed", True), ("", False)])
def test_a_run_that_has_ended_is_started_again_and_one_that_has_not_is_left_alone(
    machine: Any, state: str, replaced: bool
):
    machine.program("kubectl", f'[[ "$1" != get ]] || echo "JobSet {state}"')
    result = machine.launch("kubernetes.sh", *NEEDED, "x.py")
    verbs = [call[1] for call in machine.called("kubectl")]
    assert verbs == (["get", "delete", "apply"] if replaced else ["get"])
    assert result.returncode == (0 if replaced else 2)
    assert replaced or result.stderr.startswith(
        "error: first has not ended; to start it anew: kubectl delete jobset first"
    )


def test_nothing_is_applied_when_the_cluster_does_not_answer(machine: Any):
    machine.program("kubectl", '[[ "$1" != get ]] || { echo "no connection" >&2 && exit 1; }')
    result = machine.launch("kubernetes.sh", *NEEDED, "x.py")
    assert result.returncode == 2
    assert [call[1] for call in machine.called("kubectl")] == ["get"]
    assert result.stderr.startswith("no connection\nerror: kubectl could not say")


def test_mistakes_are_refused_before_anything_runs(machine: Any):
    machine.program("kubectl")

    def refused(*arguments: str) -> str:
        return machine.refused("kubernetes.sh", *arguments)

    assert "--image IMAGE --claim PVC" in refused("--name", "a", "x.py")
    assert "--name needs" in refused(*NEEDED, "--name", "Capital", "x.py")
    assert "--name needs" in refused(*NEEDED, "--name", "a" * 41, "x.py")
    assert "need numbers, not 'x'" in refused(*NEEDED, "--gpus", "x", "x.py")
    assert "--hosts needs at least 1" in refused(*NEEDED, "--hosts", "0", "x.py")
    assert "not both" in refused(*NEEDED, "--gpus", "1", "--tpus", "1", "x.py")
    assert "--select needs LABEL=VALUE" in refused(*NEEDED, "--select", "x", "x.py")
    assert "unknown option --gpu;" in refused(*NEEDED, "--gpu", "1", "x.py")
    assert "--gpus needs a value" in refused(*NEEDED, "--gpus")
    assert "name an experiment file" in refused(*NEEDED, "--dry-run")
