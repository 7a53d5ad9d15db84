"""The process that talks to NVML, for a parent that may not crash or wait: ``python -m pilot.resources.nvml PARENT``.

The library has been seen to hang, and to crash when one of several GPUs is gone (users-ask.md 66 to 69). Nothing
outside this process imports pynvml. One JSON object per line: ``{op: look}`` or ``{op: sample, uuids}`` down; up
``{at}`` before each call, so that the parent can say which one did not come back, and then ``{gpus, ...}``,
``{samples}`` or ``{error}``. A figure that is refused is None: only the refusals that `pilot.resources.nvml_errors`
names make a device unhealthy, or lost.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any

import pynvml

from pilot.processes.child import die_with, take_pipes
from pilot.resources.nvml_device import MOST, Asked, Library
from pilot.resources.nvml_errors import NOT_OURS, Failed
from pilot.resources.nvml_sample import sample

_UNNAMED = "NVIDIA GPU"
_ARCHITECTURES = (  # by compute capability, the oldest of each (CUDA programming guide, 5.1)
    ((10, 0), "Blackwell"),
    ((9, 0), "Hopper"),
    ((8, 9), "Ada Lovelace"),
    ((8, 0), "Ampere"),
    ((7, 5), "Turing"),
    ((7, 0), "Volta"),
    ((6, 0), "Pascal"),
    ((5, 0), "Maxwell"),
)


def look(library: Library) -> dict[str, Any]:
    """All GPUs that NVML lists, MIG instances in place of their GPUs. Raises `Failed` if NVML does not work at all."""
    library.open()
    count = library.call("nvmlDeviceGetCount")
    answer: dict[str, Any] = {"driver": "", "cuda": "", "count": count, "remarks": []}
    try:
        answer["driver"] = library.call("nvmlSystemGetDriverVersion")
        version = library.call("nvmlSystemGetCudaDriverVersion")
        answer["cuda"] = f"{version // 1000}.{version % 1000 // 10}"
    except Failed as failed:
        answer["remarks"].append(str(failed))
    indices = range(min(count, MOST))
    return {**answer, "gpus": [facts for index in indices for facts in _gpu(library, index, answer["remarks"])]}


def _gpu(library: Library, index: int, remarks: list[str]) -> Iterator[dict[str, Any]]:
    """One GPU, or its MIG instances; nothing if it belongs to others."""
    where = f"GPU {index}"
    try:
        handle = library.call("nvmlDeviceGetHandleByIndex", index, where=where)
    except Failed as failed:
        if failed.code not in NOT_OURS:
            yield _broken(index, str(failed))
        return
    gpu = Asked(library, handle, where)
    mode = gpu.may("nvmlDeviceGetMigMode")
    mig = mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    # Where only this question was refused, instances tell: such a GPU must not be taken for a whole one.
    instances = list(_instances(library, gpu, index)) if mig or (mode is None and gpu.refused) else []
    if mig and not instances:
        remarks.append(f"{where} is in MIG mode and has no instance that we may use")
    yield from instances if mig or instances else [_facts(gpu, index)]


def _instances(library: Library, gpu: Asked, index: int) -> Iterator[dict[str, Any]]:
    """The MIG instances of a GPU; a GPU that is not healthy has none that are.

    The GPU is not asked for figures: that takes privileges (nvml.h, nvmlDeviceGetMemoryInfo), and refusal is no fault.
    """
    inherited = {
        "mig": True,
        "parent": gpu.uuid(),
        "temperature_c": gpu.may("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
        "architecture": _architecture(gpu.may("nvmlDeviceGetCudaComputeCapability")),
    }
    illness = gpu.why or _memory_errors(gpu)
    for number in range(min(gpu.may("nvmlDeviceGetMaxMigDeviceCount") or 0, MOST)):
        where = f"MIG {index}:{number}"
        try:
            handle = library.call("nvmlDeviceGetMigDeviceHandleByIndex", gpu.handle, number, where=where)
        except Failed:  # the numbers have holes
            continue
        instance = Asked(library, handle, where)
        facts = _facts(instance, index)
        ids = {
            "instance": number,
            "gpu_instance_id": instance.may("nvmlDeviceGetGpuInstanceId"),
            "compute_instance_id": instance.may("nvmlDeviceGetComputeInstanceId"),
        }
        why = illness or facts["why"]
        yield {**facts, **inherited, **ids, "why": why, "healthy": not why}


def _facts(device: Asked, index: int) -> dict[str, Any]:
    """The fields of `pilot.resources.gpu.Gpu`."""
    uuid, name = device.uuid(), device.may("nvmlDeviceGetName")
    total, used = device.memory()
    utilisation = device.may("nvmlDeviceGetUtilizationRates")
    power_mw = device.may("nvmlDeviceGetPowerUsage")
    energy_mj = device.may("nvmlDeviceGetTotalEnergyConsumption")
    facts = {
        "uuid": uuid,
        "name": name or _UNNAMED,
        "memory_bytes": total,
        "used_bytes": used,
        "mig": False,
        "index": index,
        "processes": _processes(device),
        "mps_processes": _number_of(device.may("nvmlDeviceGetMPSComputeRunningProcesses_v3")),
        "utilisation": None if utilisation is None else float(utilisation.gpu),
        "power_w": None if power_mw is None else power_mw / 1000,
        "temperature_c": device.may("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
        "energy_j": None if energy_mj is None else energy_mj / 1000,
        "architecture": _architecture(device.may("nvmlDeviceGetCudaComputeCapability")),
    }
    why = device.why or _memory_errors(device)
    return {**facts, "why": why, "healthy": not why}


def _memory_errors(device: Asked) -> str:
    """What its memory has suffered that a job should not meet, as DCGM's health checks see it; "" if nothing.

    Errors that were corrected, and rows that are replaced already, are not a reason.
    """
    kinds = (pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC)
    uncorrected = device.may("nvmlDeviceGetTotalEccErrors", *kinds)
    rows = device.may("nvmlDeviceGetRemappedRows")  # since Ampere: corrected, uncorrected, pending, failure
    pages = device.may("nvmlDeviceGetRetiredPagesPendingStatus")  # before
    if device.why:
        return device.why
    if rows is not None and rows[3]:
        return "a failed memory row cannot be replaced"
    if (rows is not None and rows[2]) or pages == pynvml.NVML_FEATURE_ENABLED:
        return "failed memory waits for a reset to be replaced"
    if uncorrected:
        return f"uncorrected ECC errors since the driver was loaded: {uncorrected}"
    return ""


def _processes(device: Asked) -> int | None:
    """How many processes compute on it; drivers before 510 have version 2 of the call."""
    found = device.may("nvmlDeviceGetComputeRunningProcesses_v3")
    return _number_of(device.may("nvmlDeviceGetComputeRunningProcesses_v2") if found is None else found)


def _number_of(found: list[Any] | None) -> int | None:
    return None if found is None else len(found)


def _architecture(capability: tuple[int, int] | None) -> str:
    names = (name for oldest, name in _ARCHITECTURES if capability is not None and capability >= oldest)
    return next(names, "")


def _broken(index: int, why: str) -> dict[str, Any]:
    """A GPU that does not even say who it is."""
    return {"uuid": "", "name": "", "memory_bytes": None, "mig": False, "healthy": False, "index": index, "why": why}


def answer(library: Library, message: dict[str, Any]) -> dict[str, Any]:
    """Do what one line asks for."""
    try:
        match message["op"]:
            case "look":
                return look(library)
            case "sample":
                return sample(library, message["uuids"])
            case other:
                return {"error": f"unknown operation {other!r}"}
    except Failed as failed:
        return {"error": str(failed)}


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    die_with(int(sys.argv[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash of the library is an answer; nobody wants its core
    asked, answers = take_pipes()
    library = Library(answers)
    with open(asked, "rb") as lines:  # noqa: PTH123 - a descriptor
        for line in lines:
            answers.send(answer(library, json.loads(line)))
    os._exit(0)  # the library's own clean-up at exit may hang like any of its calls


if __name__ == "__main__":
    main()
