"""GPUs through NVML, with a library that has what clusters have: MIG, hangs, crashes, and GPUs that get lost."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pilot.resources.gpu import Gpu, Gpus, GpuSampler, choose, cuda_visible, find_gpus, unhealthy
from pilot.resources.nvml_process import library_folders
from pilot.resources.visible import Visible, forbidden, select
from tests.contract.nvml.fake_nvml import FIRST, PARENT, SECOND, TWO_GPUS, WHOLE, compile_library

ALL = (WHOLE, FIRST, SECOND)
SHORT = {WHOLE: "GPU0", PARENT: "GPU1", FIRST: "MIG1:0", SECOND: "MIG1:3"}
START_S = 3.0  # an interpreter on two busy cores


def uuids(gpus):
    return tuple(device.uuid for device in gpus.devices)


@pytest.fixture
def find(visible, sysroot, table):
    """Look, and keep a row of it."""

    def look(case, limit_s=10.0, **changes):
        started = time.monotonic()
        gpus = find_gpus(visible(**changes), limit_s, sysroot)
        devices = [SHORT.get(one.uuid, "?") + ("" if one.healthy else "(ill)") for one in gpus.devices]
        answer = "; ".join(filter(None, (" ".join(devices), gpus.shared, gpus.note)))
        for uuid, name in SHORT.items():
            answer = answer.replace(uuid, name)
        table.append((case, answer, time.monotonic() - started))
        return gpus

    return look


# --- what there is


def test_two_gpus_one_of_them_with_mig_are_three_devices(find):
    gpus = find("2 GPUs, one with MIG")
    whole, first, second = gpus.devices
    assert (gpus.driver, gpus.cuda, gpus.note, gpus.shared) == ("550.90.07", "12.4", "", "")
    assert whole == Gpu(
        uuid=WHOLE,
        name="NVIDIA H100 80GB HBM3",
        memory_bytes=81559 << 20,
        mig=False,
        healthy=True,
        index=0,
        used_bytes=4 << 20,
        processes=2,
        utilisation=37.0,
        power_w=61.234,
        temperature_c=41,
        energy_j=5000.0,
        architecture="Hopper",
    )
    assert (first.uuid, first.mig, first.parent, first.index, first.instance) == (FIRST, True, PARENT, 1, 0)
    assert (second.uuid, second.instance, second.memory_bytes) == (SECOND, 3, 9856 << 20)
    assert (first.utilisation, first.power_w, first.energy_j) == (None, None, None)
    assert (first.healthy, first.architecture, first.temperature_c) == (True, "Hopper", 41)
    assert gpus.as_json()["devices"][1]["parent"] == PARENT


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ALL),
        ("all", ALL),
        ("none", ()),
        ("void", ()),
        ("", ()),
        ("0", (WHOLE,)),
        ("1", (FIRST, SECOND)),
        (WHOLE, (WHOLE,)),
        (PARENT, (FIRST, SECOND)),
        (SECOND, (SECOND,)),
        ("1:3", (SECOND,)),
        ("6,7", ALL),
    ],
)
def test_the_devices_are_those_of_nvidia_visible_devices(find, value, expected):
    shown = value if value is None else SHORT.get(value, value or "(empty)")
    gpus = find(f"NVIDIA_VISIBLE_DEVICES={shown}", nvidia=value)
    assert uuids(gpus) == expected
    assert gpus.note.startswith("no GPU: ") == (not expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", (WHOLE,)), ("1,0", (FIRST, WHOLE)), ("", ()), ("-1", ()), (SECOND, (SECOND,)), ("0,9,1", (WHOLE,))],
)
def test_the_devices_are_those_of_cuda_visible_devices(find, value, expected):
    gpus = find(f"CUDA_VISIBLE_DEVICES={SHORT.get(value, value or '(empty)')}", cuda=value)
    assert uuids(gpus) == expected
    assert ("ends at '9'" in gpus.note) == ("9" in value)


def test_void_with_devices_is_how_cdi_gives_gpus(find, sysroot):
    (sysroot / "dev/nvidia0").touch()
    assert uuids(find("NVIDIA_VISIBLE_DEVICES=void, by CDI", nvidia="void")) == ALL


def test_no_process_is_asked_where_the_answer_is_none_anyway(find, fake):
    fake.says("hang nvmlInitWithFlags")
    started = time.monotonic()
    assert find("none, and NVML would hang", nvidia="none").note == "no GPU: NVIDIA_VISIBLE_DEVICES is none"
    assert time.monotonic() - started < 1


def test_sharing_is_said_where_it_can_be_seen(find, fake):
    assert find("an id of a time slice", nvidia=f"{WHOLE}::1").shared == "time slices"
    assert find("variables of MPS", mps=True).shared == "MPS"
    fake.says(TWO_GPUS, "set mps 1")
    assert find("a process of MPS").shared == "MPS"


# --- what can go wrong


def test_without_device_and_library_no_process_is_asked(sysroot, table):
    started = time.monotonic()
    gpus = find_gpus(Visible(), sysroot=sysroot)
    seconds = time.monotonic() - started
    table.append(("no device, no library", gpus.note, seconds))
    assert gpus == Gpus(note="no GPU: neither a device in /dev nor libnvidia-ml.so.1 is here")
    assert seconds < 0.1


def test_a_device_without_the_library_is_one_clear_line(sysroot, table):
    if library_folders("", Path("/")) is not None:
        pytest.skip("this machine has NVIDIA's own library")
    (sysroot / "dev/nvidia0").touch()
    gpus = find_gpus(Visible(), sysroot=sysroot)
    table.append(("a device, no library", gpus.note, 0.0))
    assert gpus == Gpus(note="no GPU: libnvidia-ml.so.1 cannot be loaded (nvmlInit: 12)")


def test_a_library_that_is_none_is_one_clear_line(find, fake):
    (fake.folder / "libnvidia-ml.so.1").write_text("not for this architecture")
    assert find("a library that cannot be loaded").note == "no GPU: libnvidia-ml.so.1 cannot be loaded (nvmlInit: 12)"


def test_a_symbol_that_is_needed_and_missing_is_named(find, fake):
    compile_library(fake.folder, "nvmlDeviceGetCount_v2")
    gpus = find("a symbol missing: nvmlDeviceGetCount_v2")
    assert not gpus.devices
    assert "does not have the function (nvmlDeviceGetCount: 13)" in gpus.note


def test_an_old_library_without_newer_symbols_still_tells_its_gpus(find, fake):
    fake.says("\n".join(TWO_GPUS.splitlines()[:3]))
    newer = ("nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetMigMode")
    compile_library(fake.folder, *newer, "nvmlDeviceGetComputeRunningProcesses_v3")
    (whole,) = find("symbols of newer drivers missing").devices
    assert (whole.healthy, whole.memory_bytes, whole.processes) == (True, 81559 << 20, None)
    assert whole.used_bytes == 516 << 20  # with what the driver keeps for itself: nothing tells it apart


@pytest.mark.parametrize(
    ("code", "words"),
    [(9, "driver is not loaded"), (18, "different driver versions"), (999, "unknown error"), (77, "NVML refuses")],
)
def test_an_error_at_init_is_one_clear_line(find, fake, code, words):
    fake.says(TWO_GPUS, f"fail nvmlInitWithFlags {code}")
    gpus = find(f"init error {code}")
    assert gpus.devices == ()
    assert gpus.note.startswith("no GPU: ")
    assert words in gpus.note


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetPowerUsage@0"])
def test_a_call_that_hangs_costs_its_limit_at_most(find, fake, function):
    fake.says(TWO_GPUS, f"hang {function}")
    started = time.monotonic()
    gpus = find(f"hangs, limit 1.5 s: {function}", limit_s=1.5)
    assert 1.5 <= time.monotonic() - started < 1.8
    assert gpus.devices == ()
    assert gpus.note.startswith("no GPU: NVML has not answered within 1.5 s (in nvml")


@pytest.mark.parametrize("function", ["nvmlInitWithFlags", "nvmlDeviceGetUUID@1"])
def test_a_call_that_crashes_is_one_clear_line(find, fake, function):
    fake.says(TWO_GPUS, f"crash {function}")
    where = "nvmlInit" if "Init" in function else "nvmlDeviceGetUUID of GPU 1"
    assert find(f"crashes: {function}") == Gpus(note=f"no GPU: NVML has crashed with SIGSEGV (in {where})")


def test_a_gpu_that_belongs_to_others_is_none_of_ours(find, fake):
    fake.says(TWO_GPUS, "fail nvmlDeviceGetHandleByIndex_v2@0 4")
    assert uuids(find("no permission for GPU 0")) == (FIRST, SECOND)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("fail *@0 15", "it is lost"),
        ("fail nvmlDeviceGetMemoryInfo_v2@0 999", "unknown error"),
        ("fail nvmlDeviceGetPowerUsage@0 15", "it is lost"),
        ("fail nvmlDeviceGetName@0 3", "nvmlDeviceGetName"),
    ],
)
def test_one_gpu_that_fails_is_unhealthy_and_the_others_are_not(find, fake, rule, words):
    fake.says(TWO_GPUS, rule)
    gpus = find(rule)
    assert [device.healthy for device in gpus.devices] == [False, True, True]
    assert words in gpus.devices[0].why
    assert words in gpus.note


@pytest.mark.parametrize("setting", ["ecc 3", "pending 1", "failure 1", "retired 1"])
def test_memory_that_cannot_be_trusted_makes_a_gpu_and_its_instances_unhealthy(find, fake, setting):
    fake.says(TWO_GPUS, f"set {setting}")
    assert [device.healthy for device in find(f"memory errors: {setting}").devices] == [False] * 3


def test_figures_that_are_not_supported_are_none(find, fake):
    fake.says(TWO_GPUS, "fail nvmlDeviceGetUtilizationRates 3", "fail nvmlDeviceGetTotalEnergyConsumption 3")
    whole, *_ = find("figures not supported").devices
    assert (whole.healthy, whole.utilisation, whole.energy_j, whole.power_w) == (True, None, None, 61.234)


def test_mig_mode_without_instances_is_said(find, fake):
    fake.says(f"driver 1\ncuda 12000\ngpu {PARENT} 81559 4 mig\n")
    assert find("MIG without instances").note == "no GPU: GPU 0 is in MIG mode and has no instance that we may use"


# --- between jobs, and in a job


def test_a_gpu_lost_between_two_jobs_stops_the_second(find, fake):
    before = find("lost between two jobs: before")
    expected = uuids(before)
    assert unhealthy(before, expected) == ""
    fake.says(TWO_GPUS, "fail *@0 15")
    reason = unhealthy(find("lost between two jobs: after"), expected)
    assert reason.startswith(f"{WHOLE} is gone: not healthy: GPU 0: it is lost")


def test_a_gpu_that_is_not_listed_any_more_stops_the_next_job(find, fake):
    expected = uuids(find("not listed any more: before"))
    fake.says("\n".join(TWO_GPUS.splitlines()[:3]) + "\n")
    assert unhealthy(find("not listed any more: after"), expected).startswith(f"{FIRST} is gone")


def test_memory_that_somebody_holds_is_a_reason_unless_gpus_are_shared(find, fake):
    fake.says(TWO_GPUS.replace("81559 4\n", "81559 2000\n"))
    gpus = find("2000 MiB held by somebody")
    assert unhealthy(gpus, [WHOLE]) == f"{WHOLE}: somebody else holds 2000 MiB of its memory"
    assert unhealthy(gpus, [WHOLE], most_used_bytes=4000 << 20) == ""
    assert unhealthy(find("2000 MiB held, by MPS", mps=True), [WHOLE]) == ""


@pytest.fixture
def sampler(visible, sysroot):
    sampler = GpuSampler(visible(), [WHOLE, FIRST], sysroot)
    yield sampler
    sampler.close()


def row(table, case, sampler, limit_s=5.0):
    started = time.monotonic()
    samples = sampler.sample(limit_s)
    shown = [f"{SHORT[one.uuid]} {'LOST' if one.lost else one.utilisation} {one.energy_j} J" for one in samples]
    table.append((f"sampler: {case}", "; ".join([*shown, samples[0].why]), time.monotonic() - started))
    return samples


def test_samples_come_from_one_process_with_energy_since_the_first(sampler, fake, table):
    whole, instance = row(table, "at start", sampler)
    pid = sampler.pid
    assert (whole.utilisation, whole.used_bytes, whole.energy_j) == (37.0, 4 << 20, 0.0)
    assert (instance.utilisation, instance.used_bytes, instance.energy_j) == (None, 16 << 20, None)
    fake.says(TWO_GPUS.replace("5000000", "5250000").replace("81559 4\n", "81559 9000\n"))
    whole, _ = row(table, "later", sampler)
    assert (whole.used_bytes, whole.energy_j, sampler.pid) == (9000 << 20, 250.0, pid)


def test_a_gpu_lost_in_a_job_is_told_and_the_other_goes_on(sampler, fake, table):
    assert not any(one.lost for one in row(table, "before the loss", sampler))
    fake.says(TWO_GPUS, "fail *@0 15")
    whole, instance = row(table, "lost in a job", sampler)
    assert (whole.lost, instance.lost) == (True, False)
    assert "lost" in whole.why


def test_a_sample_that_hangs_costs_its_limit_and_the_next_asks_a_new_process(sampler, fake, table):
    sampler.sample()
    pid = sampler.pid
    fake.says(TWO_GPUS, "hang nvmlDeviceGetUtilizationRates")
    started = time.monotonic()
    whole, _ = row(table, "hangs, limit 0.5 s", sampler, limit_s=0.5)
    assert time.monotonic() - started < 0.8
    assert (whole.lost, whole.utilisation, sampler.pid) == (False, None, None)
    assert whole.why.startswith("NVML has not answered")
    fake.says(TWO_GPUS)
    whole, _ = row(table, "after the hang", sampler)
    assert whole.utilisation == 37.0
    assert sampler.pid not in {pid, None}


def test_a_sampler_that_crashes_thrice_is_not_asked_again(sampler, fake, table):
    fake.says(TWO_GPUS, "crash nvmlDeviceGetMemoryInfo_v2")
    for _ in range(3):
        assert "SIGSEGV" in row(table, "crashes", sampler)[0].why
    fake.says(TWO_GPUS)
    started = time.monotonic()
    assert "SIGSEGV" in sampler.sample()[0].why
    assert time.monotonic() - started < 0.1


def test_a_sampler_without_devices_needs_no_process(sysroot):
    sampler = GpuSampler(Visible(), [], sysroot)
    assert (sampler.sample(), sampler.pid) == ((), None)
    sampler.close()


def test_a_process_that_hangs_in_nvml_dies_with_its_parent(fake, sysroot):
    fake.says(TWO_GPUS, "hang nvmlInitWithFlags")
    program = (
        "from pilot.resources.gpu import *; import sys; from pathlib import Path\n"
        "sampler = GpuSampler(Visible(library_path=sys.argv[1]), ['x'], Path(sys.argv[2]))\n"
        "print(sampler.pid, flush=True); sampler.sample(60)"
    )
    arguments = [sys.executable, "-c", program, fake.folder, sysroot]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as parent:
        pid = int(parent.stdout.readline())
        child = psutil.Process(pid)
        deadline = time.monotonic() + START_S
        while not has_loaded_nvml(child):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(parent.pid, signal.SIGKILL)
    gone, alive = psutil.wait_procs([child], timeout=START_S)
    assert gone, alive


def has_loaded_nvml(process):
    return any("libnvidia-ml" in one.path for one in process.memory_maps())


# --- without a library


def device(uuid, index, instance=None, **more):
    values = {"name": "N", "memory_bytes": 1, "mig": instance is not None, "healthy": True}
    return Gpu(uuid=uuid, index=index, instance=instance, **(values | more))


LISTED = [device(WHOLE, 0), device(FIRST, 1, 0, parent=PARENT), device(SECOND, 1, 3, parent=PARENT)]


@pytest.mark.parametrize(
    ("nvidia", "cuda", "expected"),
    [
        ("0,1", None, ALL),  # as many as there are: the runtime has selected
        ("3", None, ALL),  # a host's number
        ("1:0,1:3", None, ALL),  # as many instances as there are
        ("1:0", None, (FIRST,)),
        ("0,1:3", None, ALL),
        (f"{SECOND},{WHOLE}", None, (WHOLE, SECOND)),
        ("nvidia.com/gpu=0", None, (WHOLE,)),
        ("nvidia.com/gpu=all", None, ALL),
        ("/var/run/nvidia-container-devices", None, ALL),
        ("GPU-1111111", None, (WHOLE,)),
        ("gpu-11112222", None, (FIRST, SECOND)),
        ("GPU-9", None, ()),
        ("nonsense", None, ()),
        ("1", "0", (FIRST,)),  # CUDA counts what the pod has
        (None, " 1 , 0 ", (FIRST, WHOLE)),
        (None, "GPU-1111111", (WHOLE,)),
        (None, "GPU-1111", ()),  # two begin like this
        (None, PARENT, (FIRST,)),
        (None, "MIG-4,0", (SECOND, WHOLE)),
        (None, f"{SECOND},{SECOND}", (SECOND,)),
        (None, "0,-1,1", (WHOLE,)),
        (None, "NoDevFiles", ()),
        (None, "²", ()),
    ],
)
def test_both_variables_mean_what_nvidia_says(nvidia, cuda, expected):
    chosen, remarks = select(LISTED, 2, Visible(nvidia=nvidia, cuda=cuda))
    assert tuple(one.uuid for one in chosen) == expected
    assert remarks or expected or cuda == "-1"


def test_an_id_that_is_not_here_is_named():
    chosen, remarks = select(LISTED, 2, Visible(nvidia=f"{WHOLE},GPU-gone"))
    assert ([one.uuid for one in chosen], remarks) == ([WHOLE], ["GPU-gone of NVIDIA_VISIBLE_DEVICES is not here"])


def test_the_environment_is_given_as_a_mapping():
    empty = {"NVIDIA_VISIBLE_DEVICES": "", "LD_LIBRARY_PATH": "/x", "CUDA_MPS_PIPE_DIRECTORY": "/mps"}
    assert Visible.of(empty) == Visible(nvidia="", mps=True, library_path="/x")
    assert Visible.of({}) == Visible()
    assert forbidden(Visible(nvidia="void"), device_nodes=False) == "NVIDIA_VISIBLE_DEVICES is void"
    assert forbidden(Visible(nvidia="void"), device_nodes=True) == ""


def test_a_job_gets_healthy_devices_least_used_first_and_whole_ones_for_several():
    ill = device("GPU-ill", 2, healthy=False)
    busy = device("GPU-busy", 3, used_bytes=5)
    slice_, free = device("MIG-x", 4, 0), device("GPU-free", 5, used_bytes=1)
    gpus = Gpus((ill, busy, slice_, free))
    assert cuda_visible(choose(gpus, 1)) == "MIG-x"
    assert cuda_visible(choose(gpus, 2)) == "GPU-free,GPU-busy"
    assert cuda_visible(choose(gpus, 0)) == ""
    with pytest.raises(ValueError, match="4 GPUs are wanted, and there are 3"):
        choose(gpus, 4)
