"""GPUs through NVML, with a library that has what clusters have: MIG, hangs, crashes, and GPUs that get lost."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pilot.resources.gpu import Gpu, Gpus, GpuSample, GpuSampler, choose, cuda_visible, find_gpus, unhealthy
from pilot.resources.nvml_errors import CODES, UNREADABLE
from pilot.resources.nvml_process import library_folders
from pilot.resources.visible import Visible, forbidden, select
from tests.contract.nvml.fake_nvml import FIRST, PARENT, SECOND, TWO_GPUS, WHOLE, compile_library, header

ALL = (WHOLE, FIRST, SECOND)
SHORT = {WHOLE: "GPU0", PARENT: "GPU1", FIRST: "MIG1:0", SECOND: "MIG1:3"}
FIGURES = (
    "nvmlDeviceGetMemoryInfo",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetTotalEnergyConsumption",
)
MORE_FIGURES = (
    "nvmlDeviceGetName",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetCudaComputeCapability",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
    "nvmlDeviceGetTotalEccErrors",
    "nvmlDeviceGetRemappedRows",
    "nvmlDeviceGetRetiredPagesPendingStatus",
)
GARBAGE = ("no JSON", "{}", "[]", "7", "{", '{"gpus": 1, "samples": 1}', '{"samples": []}', "9" * 99, "[" * 99)
LOSSES = {9, 15, 16}  # the driver is not there, the GPU is not there, it needs a reset
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
    assert (second.gpu_instance_id, second.compute_instance_id) == (10, 0)
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
        ("fail nvmlDeviceGetMemoryInfo_v2@0 16", "it needs a reset"),
        ("fail nvmlDeviceGetPowerUsage@0 15", "it is lost"),
        ("fail nvmlDeviceGetUtilizationRates@0 17", "the operating system blocks it"),
        ("fail nvmlDeviceGetTemperature@0 11", "interrupt trouble"),
        ("fail nvmlDeviceGetUUID@0 3", "not supported (nvmlDeviceGetUUID of GPU 0: 3)"),
        ("fail nvmlDeviceGetHandleByIndex_v2@0 10", "timeout in the driver"),
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


def test_a_gpu_without_memory_of_its_own_is_healthy_and_its_memory_is_not_told(find, fake):
    fake.says(TWO_GPUS, "fail nvmlDeviceGetMemoryInfo 3", "fail nvmlDeviceGetMemoryInfo_v2 3")
    gpus = find("unified memory")
    assert [(one.healthy, one.memory_bytes, one.used_bytes, one.why) for one in gpus.devices] == [
        (True, None, None, "")
    ] * 3
    assert gpus.note == ""
    assert unhealthy(gpus, ALL) == ""
    assert cuda_visible(choose(gpus, 3)) == ",".join(ALL)


@pytest.mark.parametrize("total", ["0 0", "0 7"])
def test_a_memory_of_no_bytes_is_a_memory_that_is_not_told(find, fake, total):
    fake.says(TWO_GPUS.replace(f"{WHOLE} 81559 4", f"{WHOLE} {total}"))
    whole, *_ = find(f"memory {total}").devices
    assert (whole.healthy, whole.memory_bytes, whole.used_bytes) == (True, None, None)


@pytest.mark.parametrize("code", [3, 4, 10, 20, 23, 27, 77, 999])
def test_no_figure_is_needed_but_the_uuid(find, fake, code):
    rules = [f"fail {function}@0 {code}" for function in (*FIGURES, *MORE_FIGURES)]
    fake.says(TWO_GPUS, *rules)
    whole, *_ = find(f"no figure: {code}").devices
    assert whole == Gpu(uuid=WHOLE, name="NVIDIA GPU", memory_bytes=None, mig=False, healthy=True, index=0)


def test_a_name_that_is_no_text_costs_the_name_only(find, fake):
    fake.says(TWO_GPUS, "set badname 1")
    gpus = find("a name that is no text")
    assert [(one.uuid, one.name, one.healthy) for one in gpus.devices] == [(uuid, "NVIDIA GPU", True) for uuid in ALL]


@pytest.mark.parametrize("code", [4, 10, 999])
def test_a_gpu_that_does_not_tell_its_mig_mode_is_not_taken_for_a_whole_one(find, fake, code):
    fake.says(TWO_GPUS, f"fail nvmlDeviceGetMigMode {code}")
    assert uuids(find(f"MIG mode refused: {code}")) == ALL


def test_a_gpu_that_goes_between_the_count_and_the_look_is_not_there(find, fake):
    fake.says(TWO_GPUS, "fail nvmlDeviceGetHandleByIndex_v2@1 2")
    gpus = find("fewer than were counted")
    assert (uuids(gpus), gpus.note) == ((WHOLE,), "")
    assert unhealthy(gpus, ALL) == f"{FIRST} is gone: NVML does not list it any more"


def test_a_gpu_that_did_not_tell_who_it_is_at_the_start_may_tell_it_later(find, fake):
    fake.says(TWO_GPUS, "fail nvmlDeviceGetHandleByIndex_v2@0 10")
    at_start = find("a timeout at the start")
    assert uuids(at_start) == ("", FIRST, SECOND)
    assert unhealthy(at_start, uuids(at_start)).startswith("a GPU is not healthy: timeout in the driver")
    fake.says(TWO_GPUS)
    assert unhealthy(find("after it"), uuids(at_start)) == ""


@pytest.mark.parametrize("line", GARBAGE)
def test_garbage_in_a_look_is_one_clear_line(find, fake, line):
    fake.says(TWO_GPUS, f"garbage nvmlDeviceGetCount_v2 {line}")
    gpus = find(f"garbage: {line[:20]}")
    assert gpus.devices == ()
    assert gpus.note.startswith("no GPU: the process for NVML gives garbage")


@pytest.mark.parametrize("variable", ["nvidia", "cuda"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"MIG-{PARENT}/7/0", (FIRST,)),
        (f"MIG-{PARENT}/10/0", (SECOND,)),
        (f"mig-{PARENT.lower()}/10/0", (SECOND,)),
        (f"MIG-{PARENT}/1/0", ()),  # no beginning of 10
        (f"MIG-{PARENT}/7/1", ()),
        (f"MIG-{WHOLE}/7/0", ()),
    ],
)
def test_a_mig_instance_is_found_by_its_older_name(find, variable, name, expected):
    assert uuids(find(f"{variable}: {name}", **{variable: name})) == expected


def test_an_instance_that_does_not_tell_its_numbers_has_no_older_name(find, fake):
    fake.says(TWO_GPUS, "fail nvmlDeviceGetGpuInstanceId 3")
    gpus = find("older name, ids refused", nvidia=f"MIG-{PARENT}/7/0")
    assert gpus.note == f"no GPU: MIG-{PARENT}/7/0 of NVIDIA_VISIBLE_DEVICES is not here"


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


def codes_of_the_header():
    """Name and value of each refusal in NVIDIA's own nvml.h."""
    return dict(re.findall(r"^ +(NVML_ERROR_\w+) += (\d+),? +//!<", (header() / "nvml.h").read_text(), re.MULTILINE))


def test_the_table_of_refusals_is_that_of_the_header(library):
    assert library
    found = {int(code) for code in codes_of_the_header().values()}
    assert len(found) > 25
    assert found == CODES.keys() - {UNREADABLE}


@pytest.mark.parametrize("function", FIGURES[1:])
def test_only_a_refusal_that_says_so_of_the_device_is_a_loss(sampler, fake, function):
    pid = sampler.pid
    for code in (*map(int, codes_of_the_header().values()), 77, 4096):
        fake.says(TWO_GPUS, f"fail {function}@0 {code}")
        whole, instance = sampler.sample()
        assert (whole.lost, instance.lost) == (code in LOSSES, False), (code, whole)
        assert not whole.lost or whole.why.endswith(f" of {WHOLE}: {code})")
    fake.says(TWO_GPUS)
    whole, _ = sampler.sample()
    assert (whole.utilisation, whole.used_bytes, whole.why, sampler.pid) == (37.0, 4 << 20, "", pid)


def test_a_figure_that_is_refused_is_missing_and_the_others_are_told(sampler, fake, table):
    sampler.sample()
    fake.says(TWO_GPUS, *(f"fail {function}@0 10" for function in FIGURES[:2]))
    whole, _ = row(table, "a timeout for the memory", sampler)
    assert (whole.utilisation, whole.used_bytes, whole.energy_j, whole.lost) == (37.0, None, 0.0, False)
    assert whole.why == f"timeout in the driver (nvmlDeviceGetMemoryInfo of {WHOLE}: 10)"


@pytest.mark.parametrize("code", [10, 23, 999])
def test_what_the_driver_keeps_for_itself_is_not_somebodys_after_a_timeout(find, sampler, fake, code):
    fake.says(TWO_GPUS, f"fail nvmlDeviceGetMemoryInfo_v2 {code}")
    assert unhealthy(find(f"version 2 of the memory refused: {code}"), ALL) == ""
    assert sampler.sample()[0].used_bytes is None


def test_a_gpu_that_never_tells_a_figure_gives_no_reason_for_it(sampler, fake):
    fake.says(TWO_GPUS, *(f"fail {function}@0 3" for function in FIGURES))
    assert sampler.sample()[0] == GpuSample(WHOLE)


@pytest.mark.parametrize("code", [2, 6, 9, 15, 16, 28])
def test_a_search_by_uuid_that_fails_for_another_gpu_is_no_loss(sampler, fake, code):
    fake.says(TWO_GPUS, f"fail nvmlDeviceGetHandleByUUID {code}")
    whole, instance = sampler.sample()
    assert (whole.utilisation, whole.used_bytes, whole.lost) == (37.0, 4 << 20, False)
    assert (instance.used_bytes, instance.lost) == (16 << 20, False)


@pytest.mark.parametrize("code", [1, 4, 8, 10, 11, 17, 23, 999])
def test_a_search_by_uuid_that_is_refused_is_a_sample_without_figures(sampler, fake, code):
    fake.says(TWO_GPUS, f"fail nvmlDeviceGetHandleByUUID {code}")
    samples = sampler.sample()
    assert [(one.lost, one.used_bytes, one.utilisation) for one in samples] == [(False, None, None)] * 2
    assert all(f"nvmlDeviceGetHandleByUUID of {one.uuid}: {code})" in one.why for one in samples)


@pytest.mark.parametrize(
    "rule", ["nvmlDeviceGetUUID@0 10", "nvmlDeviceGetHandleByIndex_v2@0 4", "nvmlDeviceGetCount_v2 999"]
)
def test_a_gpu_is_not_called_gone_while_one_that_may_be_it_does_not_tell(sampler, fake, rule):
    fake.says(TWO_GPUS, "fail nvmlDeviceGetHandleByUUID 6", f"fail {rule}")
    assert not sampler.sample()[0].lost


def test_a_gpu_that_is_not_listed_any_more_is_lost_and_so_is_an_instance(sampler, fake):
    sampler.sample()
    fake.says(TWO_GPUS.replace(WHOLE, "GPU-other").replace(FIRST, "MIG-other"))
    whole, instance = sampler.sample()
    assert (whole.lost, whole.why) == (True, f"not found (nvmlDeviceGetHandleByUUID of {WHOLE}: 6)")
    assert (instance.lost, instance.why) == (True, f"not found (nvmlDeviceGetHandleByUUID of {FIRST}: 6)")


@pytest.mark.parametrize("code", [4, 9, 12, 15, 18, 999])
def test_nvml_that_cannot_be_opened_says_nothing_of_a_gpu(sampler, fake, code):
    fake.says(TWO_GPUS, f"fail nvmlInitWithFlags {code}")
    whole, _ = sampler.sample()
    assert (whole.lost, whole.used_bytes) == (False, None)
    assert whole.why.endswith(f"(nvmlInit: {code})")
    fake.says(TWO_GPUS)
    assert sampler.sample()[0].utilisation == 37.0


def test_a_library_that_has_forgotten_everything_is_opened_again(sampler, fake):
    sampler.sample()
    pid = sampler.pid
    fake.says(TWO_GPUS, "fail nvmlDeviceGetHandleByUUID 1", "fail nvmlInitWithFlags 999")
    assert not any(one.lost for one in sampler.sample())
    assert sampler.sample()[0].why.endswith("(nvmlInit: 999)")
    fake.says(TWO_GPUS)
    assert (sampler.sample()[0].utilisation, sampler.pid) == (37.0, pid)


@pytest.mark.parametrize("line", GARBAGE)
def test_garbage_in_a_sample_is_no_loss_and_the_next_asks_a_new_process(sampler, fake, line):
    sampler.sample()
    pid = sampler.pid
    fake.says(TWO_GPUS, f"garbage nvmlDeviceGetHandleByUUID@0 {line}")
    whole, _ = sampler.sample()
    assert (whole.lost, whole.used_bytes) == (False, None)
    assert whole.why.startswith("the process for NVML gives garbage")
    fake.says(TWO_GPUS)
    assert sampler.sample()[0].utilisation == 37.0
    assert sampler.pid not in {pid, None}


def test_a_sampler_that_is_killed_is_no_loss_and_is_replaced(sampler):
    sampler.sample()
    pid = sampler.pid
    os.kill(pid, signal.SIGKILL)
    whole, _ = sampler.sample()
    assert (whole.lost, "SIGKILL" in whole.why) == (False, True)
    assert sampler.sample()[0].utilisation == 37.0
    assert sampler.pid not in {pid, None}


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


LISTED = [
    device(WHOLE, 0),
    device(FIRST, 1, 0, parent=PARENT, gpu_instance_id=1, compute_instance_id=0),
    device(SECOND, 1, 3, parent=PARENT, gpu_instance_id=10, compute_instance_id=0),
]


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
        (f"MIG-{PARENT}/1/0,{WHOLE}", None, (WHOLE, FIRST)),
        (f"nvidia.com/gpu=MIG-{PARENT}/10/0", None, (SECOND,)),
        (f"MIG-{PARENT}/10/0::2", None, (SECOND,)),
        (f"MIG-{PARENT}/1", None, ()),
        (f"MIG-{PARENT}/1/0/0", None, ()),
        (f"MIG-{PARENT}/{'1' * 5000}/0", None, ()),
        ("1:3,0", None, ALL),
        ("1:9,1:9", None, ()),
        ("0:x", None, ()),  # no number of an instance is not any instance
        ("1:", None, ()),
        ("9" * 5000, None, ()),
        (" All ", None, ALL),
        (None, f"MIG-{PARENT}/10/0,MIG-{PARENT}/1/0", (SECOND, FIRST)),
        (None, f"{FIRST},MIG-{PARENT}/1/0", (FIRST,)),
        (None, "MIG-GPU-11112222/10/0", (SECOND,)),
        (None, f"MIG-{PARENT}/3/0,0", ()),
        (None, "9" * 5000, ()),
        (None, "all", ()),  # no word of CUDA's
        (None, "NoDevFiles", ()),
        (None, "²", ()),
    ],
)
def test_both_variables_mean_what_nvidia_says(nvidia, cuda, expected):
    chosen, remarks = select(LISTED, 2, Visible(nvidia=nvidia, cuda=cuda))
    assert tuple(one.uuid for one in chosen) == expected
    assert remarks or expected or cuda == "-1"


def test_the_names_of_drivers_before_r470_are_names_as_they_are():
    old = [device(f"MIG-{PARENT}/{number}/0", 1, number, parent=PARENT) for number in (1, 10)]
    for name in (f"MIG-{PARENT}/1/0", f"mig-{PARENT}/1/0"):
        for visible in (Visible(nvidia=name), Visible(cuda=name)):
            assert select(old, 1, visible) == (old[:1], [])


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
    untold = device("GPU-untold", 6, memory_bytes=None)
    assert cuda_visible(choose(Gpus((busy, untold)), 2)) == "GPU-untold,GPU-busy"
    with pytest.raises(ValueError, match="4 GPUs are wanted, and there are 3"):
        choose(gpus, 4)
