"""GPUs and limits from end to end: what a payload is told, what is refused, and what the server hears (shows 3, 7).

The pods' GPUs are those of a fake NVML library (tests/contract/nvml), which can change while a pilot runs.
"""

import io
import json
import os
import shlex
import tarfile
import time
from pathlib import Path

import pytest

from tests.contract.nvml.fake_nvml import FIRST, PARENT, SECOND, TWO_GPUS, WHOLE, FakeNvml, compile_library, missing
from tests.lab import definition, dump, until

MIB = 1 << 20
UNIFIED = """\
driver 580.173.02
cuda 13000
gpu GPU-2dee1e25-b3b5-007e-2b55-79f2d0f2ebe5 121690 0
set utilisation 11
fail nvmlDeviceGetMemoryInfo 3
fail nvmlDeviceGetMemoryInfo_v2 3
"""
LOST = TWO_GPUS + "fail *@0 15\n"
EXCHANGES = Path(__file__).parents[1] / "data/panda-live-exchanges.jsonl"
HELD = TWO_GPUS.replace(f"{WHOLE} 81559 4", f"{WHOLE} 81559 2000")


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    if reason := missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    return compile_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(library, tmp_path):
    return FakeNvml(library, tmp_path / "lib")


@pytest.fixture
def gpu_pod(run, nvml):
    """Starts a pilot in a pod that has the fake GPUs."""

    def start(*arguments, **environment):
        return run(*arguments, environment={"LD_LIBRARY_PATH": str(nvml.folder), **environment})

    return start


def log_members(serve, status):
    with tarfile.open(fileobj=io.BytesIO(serve.fetch(status["log"]))) as tar:
        return {member.name.rsplit("/", 1)[1]: tar.extractfile(member).read().decode() for member in tar}


def environment_of(serve, job):
    status = serve.ended(job)
    assert status["state"] == "finished", dump(status)
    return dict(line.split("=", 1) for line in log_members(serve, status)["payload.stdout"].splitlines())


def bodies(serve, call, job=None):
    return [json.loads(one["body"]) for one in serve.calls(call, job)]


def recorded(name):
    """The types of the fields that a live server took in this exchange."""
    exchange = next(one for one in map(json.loads, EXCHANGES.read_text().splitlines()) if one["name"] == name)
    return {field: type(value) for field, value in json.loads(exchange["body"]).items()}


def becomes(nvml, script):
    """A shell command that changes what the library does."""
    new = nvml.folder / "later.txt"
    new.write_text(script)
    return shlex.join(["mv", str(new), str(nvml.folder / "nvml.txt")])


# --- what a payload is told


@pytest.mark.parametrize(
    ("gpus", "visible", "expected"),
    [
        (0, {}, ""),
        (1, {}, WHOLE),
        (2, {}, f"{WHOLE},{FIRST}"),
        (1, {"NVIDIA_VISIBLE_DEVICES": SECOND}, SECOND),
        (1, {"CUDA_VISIBLE_DEVICES": "1"}, FIRST),
        (1, {"NVIDIA_VISIBLE_DEVICES": f"MIG-{PARENT}/10/0"}, SECOND),
        (1, {"CUDA_VISIBLE_DEVICES": f"MIG-{PARENT}/7/0"}, FIRST),
    ],
)
def test_a_payload_sees_its_gpus_by_uuid_and_no_others(serve, gpu_pod, gpus, visible, expected):
    job = serve.submit(command="env", gpus=gpus)
    assert gpu_pod("--max-jobs", 1, **visible).wait() == 0
    assert environment_of(serve, job)["CUDA_VISIBLE_DEVICES"] == expected


def test_a_payload_without_a_gpu_in_the_pod_sees_none(serve, run):
    job = serve.submit(command="env")
    assert run("--max-jobs", 1).wait() == 0
    assert environment_of(serve, job)["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize("cores", [1, 2])
def test_a_payload_is_told_its_share_of_the_pod(serve, run, cores):
    job = serve.submit(command="env", cores=cores, memory_mib=300, disk_mib=100, environment={"MKL_NUM_THREADS": "7"})
    pilot = run("--max-jobs", 1, environment={"POD_CPU_LIMIT_M": "2000", "OMP_NUM_THREADS": "99"})
    assert pilot.wait() == 0
    told = environment_of(serve, job)
    assert {told[name] for name in told if name.endswith("_THREADS") and name != "MKL_NUM_THREADS"} == {str(cores)}
    assert (told["OMP_NUM_THREADS"], told["MKL_NUM_THREADS"]) == (str(cores), "7")
    assert (told["PILOT_CORES"], told["ATHENA_CORE_NUMBER"]) == (str(cores), str(cores))
    assert told.get("ATHENA_PROC_NUMBER") == (None if cores == 1 else "2")
    assert (told["PILOT_MEMORY_BYTES"], told["PILOT_SCRATCH_BYTES"]) == (str(300 * MIB), str(100 * MIB))


def test_a_job_that_asks_for_nothing_is_told_what_the_pod_has(serve, run):
    job = serve.submit(command="env")
    limits = {"POD_MEMORY_LIMIT_MIB": "512", "storageLimitMiB": "700"}
    assert run("--max-jobs", 1, environment=limits).wait() == 0
    told = environment_of(serve, job)
    assert told["PILOT_MEMORY_BYTES"] == str(512 * MIB)
    assert 690 * MIB < int(told["PILOT_SCRATCH_BYTES"]) <= 700 * MIB


# --- what is refused


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"coreCount": 64}, "the job asks for 64 cores, and there are 2 ("),
        ({"minRamCount": 9000}, "the job asks for 9000 MiB of memory, and there are 512 (POD_MEMORY_LIMIT_MIB"),
        ({"maxDiskCount": 9000}, "the job asks for 9000 MiB of disk, and there are "),
        ({"gpus": 4}, "the job asks for 4 GPUs, and there are 3 (NVML)"),
    ],
)
def test_more_than_there_is_fails_before_stage_in_with_both_figures(serve, gpu_pod, tmp_path, asked, words):
    """In push mode, where the server has not looked at the pod's figures."""
    fields = definition(**asked)
    pushed = serve.submit_panda(**fields)
    file = tmp_path / "pandaJobData.out"
    file.write_text(json.dumps({**fields, "PandaID": pushed, "attemptNr": 1}))
    limits = {"POD_CPU_LIMIT_M": "2000", "POD_MEMORY_LIMIT_MIB": "512", "storageLimitMiB": "700"}
    assert gpu_pod("--job", file, **limits).wait() == 0
    status = serve.ended(pushed)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1305), dump(status)
    assert words in status["pilot_error_diag"]
    assert "running" not in [one["state"] for one in status["history"]]


def test_too_many_cores_are_refused_before_an_input_is_moved(serve, run):
    source = serve.store("words", b"words")
    job = serve.submit(command="true", cores=64, inputs=[{"name": "words.txt", "url": source}])
    assert run("--max-jobs", 1).wait() == 0
    status = serve.ended(job)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1305), dump(status)
    assert not [one for one in serve.requests() if one["method"] == "GET" and "/store/test/words" in one["path"]]


# --- health between jobs


def test_a_gpu_lost_between_two_jobs_ends_the_pilot_with_the_reason(serve, gpu_pod, nvml):
    first = serve.submit(command=becomes(nvml, LOST))
    second = serve.submit(command="true", gpus=1)
    pilot = gpu_pod("--max-jobs", 2, PILOT_GPU_WAIT="0.5")
    assert pilot.wait() == 64
    assert serve.ended(first)["state"] == "finished"
    assert serve.status(second)["state"] == "activated"
    said = pilot.errors.read_text()
    assert "no job is taken here" in said
    assert f"{WHOLE} is gone" in said or f"{WHOLE} is not healthy" in said
    assert "it is lost" in said


def test_memory_that_somebody_else_holds_ends_the_pilot_with_the_reason(serve, gpu_pod, nvml):
    first = serve.submit(command=becomes(nvml, HELD))
    second = serve.submit(command="true", gpus=1)
    pilot = gpu_pod("--max-jobs", 2, PILOT_GPU_WAIT="0.5")
    assert pilot.wait() == 64
    assert serve.ended(first)["state"] == "finished"
    assert serve.status(second)["state"] == "activated"
    assert f"{WHOLE}: somebody else holds 2000 MiB of its memory" in pilot.errors.read_text()


def test_memory_that_is_given_back_within_the_wait_lets_the_pilot_go_on(serve, gpu_pod, nvml):
    nvml.says(HELD)
    job = serve.submit(command="true", gpus=1)
    pilot = gpu_pod("--max-jobs", 1)
    pilot.says("waiting for a GPU")
    assert serve.status(job)["state"] == "activated"
    nvml.says(TWO_GPUS)
    assert pilot.wait() == 0
    assert serve.ended(job)["state"] == "finished"


def test_a_library_that_hangs_costs_its_limit_and_the_pilot_goes_on_without_gpus(serve, gpu_pod, nvml):
    nvml.says(TWO_GPUS + "hang nvmlInitWithFlags\n")
    job = serve.submit(command="env")
    pilot = gpu_pod("--max-jobs", 1)
    began = time.monotonic()
    pilot.says("NVML has not answered within 10 s")
    assert time.monotonic() - began < 14
    nvml.says(TWO_GPUS + "fail nvmlInitWithFlags 999\n")  # before the job it is asked again
    assert pilot.wait() == 0
    assert environment_of(serve, job)["CUDA_VISIBLE_DEVICES"] == ""


# --- in a job


def test_a_gpu_lost_in_a_job_fails_it_with_the_reason(serve, gpu_pod, nvml):
    job = serve.submit(command="sleep 600", gpus=1)
    pilot = gpu_pod("--max-jobs", 1)
    until(lambda: gpu_samples(pilot), what="a sample")
    nvml.says(LOST)
    assert pilot.wait() == 0
    status = serve.ended(job)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1305), dump(status)
    assert f"a GPU was lost while the payload ran: {WHOLE}: " in status["pilot_error_diag"]


HICCUPS = {
    "the memory: timeout": "fail nvmlDeviceGetMemoryInfo 10\nfail nvmlDeviceGetMemoryInfo_v2 10\n",
    "the memory: no permission": "fail nvmlDeviceGetMemoryInfo 4\nfail nvmlDeviceGetMemoryInfo_v2 4\n",
    "all figures: resources are short": "fail nvmlDeviceGetMemoryInfo_v2 23\nfail nvmlDeviceGetUtilizationRates 23\n"
    "fail nvmlDeviceGetTotalEnergyConsumption 23\n",
    "the search: unknown error": "fail nvmlDeviceGetHandleByUUID 999\n",
    "the search: another GPU is lost": "fail nvmlDeviceGetHandleByUUID 15\nfail *@1 15\n",
    "a crash": "crash nvmlDeviceGetMemoryInfo_v2\n",
    "garbage": "garbage nvmlDeviceGetMemoryInfo_v2 no JSON\n",
}


def gpu_samples(pilot):
    """What was seen of the GPUs so far."""
    lines = "".join(one.read_text() for one in pilot.work.glob("pilot/job-*/usage.jsonl")).splitlines(keepends=True)
    whole = (json.loads(line) for line in lines if line.endswith("\n"))
    return [sample for line in whole for sample in line.get("gpus", ())]


@pytest.mark.parametrize("hiccup", HICCUPS.values(), ids=HICCUPS)
def test_nvml_that_stumbles_costs_a_payload_figures_and_nothing_else(serve, gpu_pod, nvml, hiccup, tmp_path):
    go_on = tmp_path / "go-on"
    job = serve.submit(command=f"until [ -e {go_on} ]; do sleep 0.1; done", gpus=1)
    pilot = gpu_pod("--max-jobs", 1)
    until(lambda: gpu_samples(pilot), what="a sample")
    nvml.says(TWO_GPUS + hiccup + "set utilisation 38\n")
    until(lambda: [one for one in gpu_samples(pilot) if one["why"] or one["utilisation"] == 38], what="the hiccup")
    nvml.says(TWO_GPUS)
    go_on.touch()
    assert pilot.wait() == 0
    assert serve.ended(job)["state"] == "finished", dump(serve.status(job))


def test_a_gpu_without_memory_of_its_own_runs_a_job_and_no_memory_is_invented(serve, gpu_pod, nvml):
    nvml.says(UNIFIED)
    job = serve.submit(command="sleep 1; env", gpus=1)
    assert gpu_pod("--max-jobs", 1, PILOT_GPU_WAIT="3").wait() == 0
    assert environment_of(serve, job)["CUDA_VISIBLE_DEVICES"] == "GPU-2dee1e25-b3b5-007e-2b55-79f2d0f2ebe5"
    metrics = dict(entry.split("=") for entry in bodies(serve, "update_job", job)[-1]["job_metrics"].split())
    assert (metrics["nGPU"], metrics["GPU_utilisation"], "GPU_memory_MiB" in metrics) == ("1", "11.0", False)
    (gpu,) = serve.call("GET", "/local/nodes")["gpus"]
    assert (gpu["count"], gpu["vram"]) == (1, None)
    (asked, *_) = bodies(serve, "acquire_jobs")
    assert "vram" not in asked["target_architecture"]["gpus"][0]


def test_utilisation_memory_and_energy_are_in_the_samples_and_the_metrics(serve, gpu_pod, nvml):
    later = TWO_GPUS.replace("energy_mj 5000000", "energy_mj 7000000")
    job = serve.submit(command=f"sleep 1; {becomes(nvml, later)}", gpus=1)
    assert gpu_pod("--max-jobs", 1).wait() == 0
    status = serve.ended(job)
    assert status["state"] == "finished", dump(status)
    samples = [json.loads(line)["gpus"] for line in log_members(serve, status)["usage.jsonl"].splitlines()]
    assert [one["uuid"] for one in samples[-1]] == [WHOLE]
    assert samples[0][0]["energy_j"] == 0
    last = samples[-1][0]
    assert (last["utilisation"], last["used_bytes"], last["energy_j"]) == (37, 4 * MIB, 2000)
    metrics = dict(entry.split("=") for entry in bodies(serve, "update_job", job)[-1]["job_metrics"].split())
    assert metrics["GPU_name"].startswith("NVIDIA-H100-80GB-HBM3")
    assert {name: metrics[name] for name in metrics if "GPU_" in name and name != "GPU_name"} == {
        "GPU_utilisation": "37.0", "GPU_memory_MiB": "4", "GPU_energy_J": "2000",
    }  # fmt: skip
    assert metrics["nGPU"] == "1"


def test_a_mig_instance_tells_no_utilisation_and_none_is_invented(serve, gpu_pod):
    job = serve.submit(command="sleep 0.5", gpus=1)
    assert gpu_pod("--max-jobs", 1, NVIDIA_VISIBLE_DEVICES=FIRST).wait() == 0
    serve.ended(job)
    metrics = dict(entry.split("=") for entry in bodies(serve, "update_job", job)[-1]["job_metrics"].split())
    assert (metrics["nGPU"], metrics["GPU_memory_MiB"]) == ("1", "16")
    assert metrics.keys() & {"GPU_utilisation", "GPU_energy_J"} == set()


# --- what the server hears, and whom it gives what


def test_node_and_gpus_are_told_in_the_types_of_the_recorded_exchanges(serve, gpu_pod):
    serve.submit(command="sleep 0.5")
    assert gpu_pod("--max-jobs", 1, PILOT_NODE="slot1@node7").wait() == 0
    told = serve.call("GET", "/local/nodes")
    (node,) = told["nodes"]
    types = recorded("update_worker_node: new")
    assert {name: type(value) for name, value in node.items() if value is not None}.items() <= types.items()
    assert type(node["clock_speed"]) is float
    assert (node["host_name"], node["n_logical_cpus"] >= 1, node["total_memory"] > 256) == ("node7", True, True)
    assert node["cpu_architecture_level"].startswith("x86-64-v")
    types = recorded("update_worker_node_gpu: new")
    assert sorted((one["model"], one["count"], one["vram"]) for one in told["gpus"]) == [
        ("NVIDIA H100 80GB HBM3", 1, 81559), ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 2, 9856),
    ]  # fmt: skip
    for gpu in told["gpus"]:
        assert {name: type(value) for name, value in gpu.items()} == types
        assert (gpu["architecture"], gpu["framework_version"], gpu["driver_version"]) == ("Hopper", "12.4", "550.90.07")


def test_a_question_for_a_job_carries_the_gpus_and_what_is_left_of_the_pod(serve, gpu_pod):
    serve.submit(command="true")
    limits = {"POD_MEMORY_LIMIT_MIB": "512", "storageLimitMiB": "700", "PILOT_LIFETIME": "3600"}
    assert gpu_pod("--max-jobs", 1, **limits).wait() == 0
    (asked, *_) = bodies(serve, "acquire_jobs")
    (whole, mig) = asked["target_architecture"]["gpus"]
    assert (whole["vendor"], whole["count"], mig["count"]) == ("NVIDIA", 1, 2)
    assert whole.keys() == mig.keys() == recorded("update_worker_node_gpu: new").keys() - {"site", "host_name"}
    assert (asked["memory"], 690 < asked["disk_space"] <= 700) == (512, True)


def test_a_job_for_a_gpu_goes_to_the_pod_that_has_one(serve, run, gpu_pod):
    known = serve.submit(command="true")
    assert gpu_pod("--max-jobs", 1).wait() == 0
    serve.ended(known)
    job = serve.submit(command="true", gpus=1)
    without = run("--max-jobs", 1, environment={"PILOT_NODE": "without", "PILOT_IDLE_LIMIT": "60"})
    until(lambda: [one for one in bodies(serve, "acquire_jobs") if one["node"] == "without"], what="its question")
    assert gpu_pod("--max-jobs", 1, PILOT_NODE="with").wait() == 0
    assert serve.ended(job)["state"] == "finished"
    assert {one["node"] for one in bodies(serve, "update_job", job)} == {"with"}
    plain = serve.submit(command="true")
    assert without.wait() == 0
    assert {one["node"] for one in bodies(serve, "update_job", plain)} == {"without"}


def test_a_job_for_a_gpu_is_refused_with_the_figures_where_no_gpu_is_known(serve, run):
    job = serve.submit(command="true", gpus=1)
    assert run("--max-jobs", 1).wait() == 0
    status = serve.ended(job)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1305), dump(status)
    assert "the job asks for 1 GPUs, and there are 0 (no GPU: " in status["pilot_error_diag"]
