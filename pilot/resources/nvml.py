"""The process that talks to NVML, for a parent that may not crash or wait: ``python -m pilot.resources.nvml PARENT``.

The library has been seen to hang, and to crash when one of several GPUs is gone (users-ask.md 66 to 69). Nothing else
imports pynvml. One JSON object per line: ``{op: look}`` or ``{op: sample, uuids}`` down; up ``{at}`` before each call,
so that the parent can say which one did not come back, and then ``{gpus, ...}``, ``{samples}`` or ``{error}``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any

import pynvml

from pilot.processes.child import Answers, die_with, take_pipes

_LOST = {  # these say that the device, not the question, is at fault (nvml.h, nvmlReturn_enum)
    pynvml.NVML_ERROR_IRQ_ISSUE: "the kernel sees interrupt trouble",
    pynvml.NVML_ERROR_CORRUPTED_INFOROM: "its infoROM is corrupted",
    pynvml.NVML_ERROR_GPU_IS_LOST: "it is lost (fallen off the bus)",
    pynvml.NVML_ERROR_RESET_REQUIRED: "it needs a reset",
    pynvml.NVML_ERROR_OPERATING_SYSTEM: "the operating system blocks it",
    pynvml.NVML_ERROR_UNKNOWN: "unknown error of the driver",
}
_WORDS = {
    **_LOST,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is not loaded",
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "libnvidia-ml.so.1 cannot be loaded",
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: "this libnvidia-ml.so.1 does not have the function",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "library and kernel module are of different driver versions",
    pynvml.NVML_ERROR_NO_PERMISSION: "no permission",
    pynvml.NVML_ERROR_GPU_NOT_FOUND: "no GPU was found",
    pynvml.NVML_ERROR_NOT_FOUND: "not found",
    pynvml.NVML_ERROR_TIMEOUT: "timeout in the driver",
}
_NOT_OURS = {pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_GPU_NOT_FOUND}
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


class Failed(Exception):
    """A call that did not give what was asked for; ``code`` is NVML's."""

    def __init__(self, name: str, where: str, code: int) -> None:
        super().__init__(f"{_WORDS.get(code, 'NVML refuses')} ({name}{' of ' if where else ''}{where}: {code})")
        self.code = code

    @property
    def lost(self) -> bool:
        """Whether the device itself is at fault."""
        return self.code in _LOST


class Library:
    """Calls NVML, and tells the parent of each call before it is made."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._open = False

    def open(self) -> None:
        """Load and initialise it, once. Raises `Failed`."""
        if not self._open:
            self.call("nvmlInit")
            self._open = True

    def call(self, name: str, *arguments: Any, where: str = "") -> Any:
        """The result of pynvml's function ``name``. Raises `Failed`."""
        self._answers.send({"at": f"{name} of {where}" if where else name})
        try:
            return getattr(pynvml, name)(*arguments)
        except pynvml.NVMLError as error:
            raise Failed(name, where, error.value) from None


class Asked:
    """One device and what it has been asked. A figure that it does not have is None.

    ``why`` is why it is not healthy. One that is lost is not asked again: the library has crashed on that.
    """

    def __init__(self, library: Library, handle: Any, where: str) -> None:
        self.handle = handle
        self.where = where
        self.why = ""
        self._library = library
        self._lost = False
        self.uuid = self.must("nvmlDeviceGetUUID") or ""

    def must(self, name: str, *arguments: Any) -> Any:
        """A figure without which there is no device: None makes it unhealthy."""
        return self._ask(name, arguments, needed=True)

    def may(self, name: str, *arguments: Any) -> Any:
        """A figure that is nice to have: not supported is None, but a lost device is unhealthy."""
        return self._ask(name, arguments, needed=False)

    def memory(self) -> tuple[int, int]:
        """Total and used bytes. What the driver keeps for itself is not used, where version 2 of the call tells it.

        Used is worked out: nvml.h and the drivers differ in whether version 2's ``used`` holds ``reserved``.
        """
        found = self.may("nvmlDeviceGetMemoryInfo", pynvml.nvmlMemory_v2)
        if found is not None:
            return found.total, max(0, found.total - found.free - found.reserved)
        found = self.must("nvmlDeviceGetMemoryInfo")
        return (0, 0) if found is None else (found.total, found.used)

    def _ask(self, name: str, arguments: tuple[Any, ...], needed: bool) -> Any:
        if self._lost:
            return None
        try:
            return self._library.call(name, self.handle, *arguments, where=self.where)
        except Failed as failed:
            self._lost = failed.lost
            if failed.lost or (needed and not self.why):
                self.why = str(failed)
            return None


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
    return {**answer, "gpus": [facts for index in range(count) for facts in _gpu(library, index, answer["remarks"])]}


def _gpu(library: Library, index: int, remarks: list[str]) -> Iterator[dict[str, Any]]:
    """One GPU, or its MIG instances; nothing if it belongs to others."""
    where = f"GPU {index}"
    try:
        handle = library.call("nvmlDeviceGetHandleByIndex", index, where=where)
    except Failed as failed:
        if failed.code not in _NOT_OURS:
            yield _broken(index, str(failed))
        return
    gpu = Asked(library, handle, where)
    mode = gpu.may("nvmlDeviceGetMigMode")
    if mode is None or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        yield _facts(gpu, index)
        return
    instances = list(_instances(library, gpu, index))
    if not instances:
        remarks.append(f"{where} is in MIG mode and has no instance that we may use")
    yield from instances


def _instances(library: Library, gpu: Asked, index: int) -> Iterator[dict[str, Any]]:
    """The MIG instances of a GPU; a GPU that is not healthy has none that are.

    The GPU is not asked for figures: that takes privileges (nvml.h, nvmlDeviceGetMemoryInfo), and refusal is no fault.
    """
    inherited = {
        "mig": True,
        "parent": gpu.uuid,
        "temperature_c": gpu.may("nvmlDeviceGetTemperature", pynvml.NVML_TEMPERATURE_GPU),
        "architecture": _architecture(gpu.may("nvmlDeviceGetCudaComputeCapability")),
    }
    illness = gpu.why or _memory_errors(gpu)
    for number in range(gpu.may("nvmlDeviceGetMaxMigDeviceCount") or 0):
        where = f"MIG {index}:{number}"
        try:
            handle = library.call("nvmlDeviceGetMigDeviceHandleByIndex", gpu.handle, number, where=where)
        except Failed:  # the numbers have holes
            continue
        facts = _facts(Asked(library, handle, where), index)
        why = illness or facts["why"]
        yield {**facts, **inherited, "instance": number, "why": why, "healthy": not why}


def _facts(device: Asked, index: int) -> dict[str, Any]:
    """The fields of `pilot.resources.gpu.Gpu`."""
    name = device.must("nvmlDeviceGetName")
    total, used = device.memory()
    utilisation = device.may("nvmlDeviceGetUtilizationRates")
    power_mw = device.may("nvmlDeviceGetPowerUsage")
    energy_mj = device.may("nvmlDeviceGetTotalEnergyConsumption")
    facts = {
        "uuid": device.uuid,
        "name": name or "",
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
    return {"uuid": "", "name": "", "memory_bytes": 0, "mig": False, "healthy": False, "index": index, "why": why}


def sample(library: Library, uuids: list[str]) -> dict[str, Any]:
    """What each device does now. Raises `Failed` if NVML does not work at all."""
    library.open()
    return {"samples": [_sample(library, uuid) for uuid in uuids]}


def _sample(library: Library, uuid: str) -> dict[str, Any]:
    try:
        handle = library.call("nvmlDeviceGetHandleByUUID", uuid, where=uuid)
    except Failed as failed:
        gone = failed.lost or failed.code == pynvml.NVML_ERROR_NOT_FOUND
        return {"uuid": uuid, "lost": gone, "why": str(failed)}
    device = Asked(library, handle, uuid)
    total, used = device.memory()
    utilisation = device.may("nvmlDeviceGetUtilizationRates")
    energy_mj = device.may("nvmlDeviceGetTotalEnergyConsumption")
    return {
        "uuid": uuid,
        "utilisation": None if utilisation is None else float(utilisation.gpu),
        "used_bytes": used if total else None,
        "energy_j": None if energy_mj is None else energy_mj / 1000,
        "lost": bool(device.why),
        "why": device.why,
    }


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
