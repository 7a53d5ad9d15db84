"""The manifests in container/: strictly valid, and still ours after Harvester has made a worker's Job of them."""

from pathlib import Path

import pytest
import yaml
from kubernetes_validate import ValidationError, latest_version, validate

from pilot.agent.cli import COMMANDS
from tests import harvester

CONTAINER = Path(__file__).parents[2] / "container"
MANIFESTS = sorted(CONTAINER.rglob("*.yaml"))
TEMPLATES = ("harvester-job.yaml", "harvester-job-gpu.yaml")
WITH_SIDECARS = "hpo-sidecar-pod.yaml"
# The first in which the recovery sidecar is on by default, and the newest that the schemas know.
VERSIONS = ("1.29", latest_version())


def load(name):
    """A template."""
    return yaml.safe_load((CONTAINER / name).read_text())


def check(manifest):
    for version in VERSIONS:
        validate(manifest, version, strict=True)


def pod(job):
    return job["spec"]["template"]["spec"]


def pilot(job):
    return pod(job)["containers"][0]


def environment(container):
    """Of two with one name the last counts."""
    return {one["name"]: one.get("value", one.get("valueFrom", "")) for one in container["env"]}


@pytest.fixture(params=TEMPLATES)
def template(request):
    return load(request.param)


def test_there_are_manifests_to_check():
    assert {*TEMPLATES, WITH_SIDECARS} <= {one.name for one in MANIFESTS}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda one: one.name)
def test_every_manifest_is_strictly_valid(path):
    for manifest in yaml.safe_load_all(path.read_text()):
        check(manifest)


def test_the_check_would_find_a_misspelt_field(template):
    pilot(template)["livenesProbe"] = pilot(template).pop("livenessProbe")
    with pytest.raises(ValidationError, match="livenesProbe"):
        check(template)


@pytest.mark.parametrize("push", [False, True])
@pytest.mark.parametrize("image", [None, "registry.example.org/other:1"])
def test_the_job_that_harvester_submits_is_valid_and_keeps_what_is_ours(template, push, image):
    # Given: what the template says
    ours, spec = pilot(template), pod(template)
    # When: Harvester makes a worker's Job of it
    job = harvester.submitted(template, push=push, image=image)
    # Then: it is valid, its name can be the label of a pod, and nothing of ours was lost
    check(job)
    assert len(job["metadata"]["name"]) <= 63
    assert pilot(job)["image"] == (image or ours["image"])
    for kept in ("command", "workingDir", "livenessProbe", "securityContext", "terminationMessagePath"):
        assert pilot(job)[kept] == ours[kept]
    assert "args" not in pilot(job)
    for kept in ("terminationGracePeriodSeconds", "activeDeadlineSeconds", "securityContext", "restartPolicy"):
        assert pod(job)[kept] == spec[kept]
    assert pod(job).get("initContainers") == spec.get("initContainers")
    assert job["spec"]["backoffLimit"] == 0


def test_harvesters_variables_do_not_replace_ours(template):
    ours, given = environment(pilot(template)), environment(pilot(harvester.submitted(template)))
    assert ours == {name: given[name] for name in ours}
    names = [one["name"] for one in pilot(harvester.submitted(template))["env"]]
    assert len(names) == len(set(names)), "an API server warns of a variable that is there twice"


def test_volumes_and_mounts_do_not_collide_with_harvesters(template):
    job = harvester.submitted(template, push=True)
    volumes = [one["name"] for one in pod(job)["volumes"]]
    mounts = [one["mountPath"] for one in pilot(job)["volumeMounts"]]
    assert len(set(volumes)) == len(volumes)
    assert len(set(mounts)) == len(mounts)
    assert {"pilot-dir", "pilots-starter", "job-config"} <= set(volumes)
    for container in (pilot(job), *pod(job).get("initContainers", ())):
        assert {one["name"] for one in container["volumeMounts"]} <= set(volumes)
        assert not any("subPath" in one for one in container["volumeMounts"]), "would not be renewed"


def test_resources_are_harvesters_where_the_template_is_silent():
    filled = pilot(harvester.submitted(load("harvester-job.yaml")))["resources"]
    assert filled["requests"] == {"cpu": "1.8", "memory": "4000.0Mi", "ephemeral-storage": "20480.0Mi"}
    assert filled["limits"] == {"cpu": "2", "ephemeral-storage": "20480.0Mi"}
    assert pilot(harvester.submitted(load("harvester-job-gpu.yaml")))["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_a_second_container_would_not_survive_and_an_init_container_does():
    template = load("harvester-job.yaml")
    pod(template)["containers"].append({"name": "other", "image": "other"})
    job = harvester.submitted(template)
    assert [one["name"] for one in pod(job)["containers"]] == ["pilot"]
    (sidecar,) = pod(job)["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("recover", "Always")


def test_the_pilot_is_pid_1_and_no_shell(template):
    assert pilot(template)["command"] == ["/opt/venv/bin/pilot", "run"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_the_template_runs_exists(name):
    template = load(name)
    containers = (pilot(template), *pod(template).get("initContainers", ()))
    commands = [*(one["command"] for one in containers), pilot(template)["livenessProbe"]["exec"]["command"]]
    assert {first for first, *_ in commands} == {"/opt/venv/bin/pilot"}
    assert {second for _, second, *_ in commands} <= set(COMMANDS)


def test_the_pilot_is_told_the_grace_and_a_deadline_before_the_pods(template):
    given = environment(pilot(template))
    assert int(given["PILOT_GRACE_S"]) == pod(template)["terminationGracePeriodSeconds"]
    assert 600 <= pod(template)["activeDeadlineSeconds"] - int(given["PILOT_DEADLINE_S"]) <= 3600


def test_every_container_is_restricted(template):
    assert pod(template)["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    for container in (pilot(template), *pod(template).get("initContainers", ())):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_sidecar_is_the_pilots_image_on_the_pilots_volume_and_server():
    template = load("harvester-job.yaml")
    (sidecar,) = pod(template)["initContainers"]
    assert sidecar["image"] == pilot(template)["image"]
    ours, given = environment(sidecar), environment(pilot(template))
    assert ours == {name: given[name] for name in ours}
    mounts = {one["name"]: one for one in pilot(template)["volumeMounts"]}
    assert all(one == mounts[one["name"]] for one in sidecar["volumeMounts"])


def test_the_template_for_gpus_differs_in_gpus_only():
    plain, gpu = (load(name) for name in TEMPLATES)
    assert gpu["metadata"].pop("name") == plain["metadata"].pop("name") + "-gpu"
    assert pilot(gpu).pop("resources") == {"limits": {"nvidia.com/gpu": 1}}
    assert [one["key"] for one in pod(gpu).pop("tolerations")] == ["nvidia.com/gpu"]
    assert gpu == plain


def test_without_a_command_harvester_would_put_a_shell_in_front():
    template = load("harvester-job.yaml")
    del pilot(template)["command"]
    assert pilot(harvester.submitted(template))["command"] == harvester.STOCK_COMMAND


def test_sidecars_that_evaluate_are_in_the_pod_that_harvester_submits():
    job = harvester.submitted(load(WITH_SIDECARS))
    check(job)
    recover, runner, *evaluations = pod(job)["initContainers"]
    assert recover == pod(load("harvester-job.yaml"))["initContainers"][0]
    assert len(evaluations) == 2
    assert all(one["restartPolicy"] == "Always" and "startupProbe" in one for one in evaluations)
    images = {one["image"] for one in evaluations}
    assert images.isdisjoint({recover["image"], runner["image"], pilot(job)["image"]})


def test_each_sidecar_has_its_own_directory_of_those_that_the_pilot_sees():
    template = load(WITH_SIDECARS)
    _, runner, *evaluations = pod(template)["initContainers"]
    given = environment(pilot(template))
    seen = {one["mountPath"]: one for one in pilot(template)["volumeMounts"]}[given["PILOT_SIDECARS"]]
    own = [mount for one in evaluations for mount in one["volumeMounts"] if mount["name"] == seen["name"]]
    assert "subPath" not in seen
    assert [one["mountPath"] for one in own] == ["/srv", "/srv"]
    assert len({one["subPath"] for one in own}) == 2
    volumes = {one["name"] for one in pod(template)["volumes"]}
    for container in (pilot(template), runner, *evaluations):
        assert {one["name"] for one in container["volumeMounts"]} <= volumes


def test_the_runner_that_sidecars_start_is_the_one_in_the_pilots_image():
    _, runner, *evaluations = pod(load(WITH_SIDECARS))["initContainers"]
    _, source, folder = runner["command"]
    assert runner["image"] == pilot(load(WITH_SIDECARS))["image"]
    assert (CONTAINER.parent / "wrappers" / Path(source).name).is_file()
    assert (
        f"COPY --from=builder /source/wrappers {Path(source).parent}" in (CONTAINER.parent / "Dockerfile").read_text()
    )
    for one in evaluations:
        assert one["command"] == ["sh", f"{folder}{Path(source).name}", one["workingDir"]]
        (mount,) = (mount for mount in one["volumeMounts"] if mount["name"] == "runner")
        assert (mount["mountPath"] + "/", mount["readOnly"]) == (folder, True)


def test_no_container_beside_the_pilot_has_more_rights_than_it():
    template = load(WITH_SIDECARS)
    assert pod(template)["securityContext"]["runAsNonRoot"]
    for one in pod(template)["initContainers"]:
        assert one["securityContext"] == pilot(template)["securityContext"]
    assert int(environment(pilot(template))["PILOT_GRACE_S"]) == pod(template)["terminationGracePeriodSeconds"]
