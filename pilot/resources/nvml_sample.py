"""What a job's devices do now, and whether one of them is lost; for the process of `pilot.resources.nvml` only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pilot.resources.nvml_device import MOST, Asked, Library
from pilot.resources.nvml_errors import NOT_THERE, ORDINARY, Failed, Gone, Says


def sample(library: Library, uuids: list[str]) -> dict[str, Any]:
    """What each device does now. Raises `Failed` if NVML does not work at all."""
    library.open()
    return {"samples": [_sample(library, uuid) for uuid in uuids]}


def _sample(library: Library, uuid: str) -> dict[str, Any]:
    try:
        device = Asked(library, _find(library, uuid), uuid)
    except Failed as failed:
        return {"uuid": uuid, "lost": failed.says is Says.LOST, "why": str(failed)}
    _, used = device.memory()
    utilisation = device.may("nvmlDeviceGetUtilizationRates")
    energy_mj = device.may("nvmlDeviceGetTotalEnergyConsumption")
    return {
        "uuid": uuid,
        "utilisation": None if utilisation is None else float(utilisation.gpu),
        "used_bytes": used,
        "energy_j": None if energy_mj is None else energy_mj / 1000,
        "lost": device.lost,
        "why": device.why or device.refused,
    }


def _find(library: Library, uuid: str) -> Any:
    """The handle of a device that was there. Raises `Failed`, and `Gone` only if it is sure."""
    try:
        return library.call("nvmlDeviceGetHandleByUUID", uuid, where=uuid)
    except Failed as failed:
        if failed.says is not Says.LOST and failed.code not in NOT_THERE:
            raise
        return _search(library, uuid, failed)


def _search(library: Library, uuid: str, refusal: Failed) -> Any:
    """Look for it in all that are there, for the search by UUID fails with "lost" for *any* GPU (nvml.h).

    Raises `Gone` with the ``refusal`` if no other device can be it, and `Failed` if one of them does not tell now.
    """
    for index in range(min(library.call("nvmlDeviceGetCount"), MOST)):
        gpu = _unless_gone(library, "nvmlDeviceGetHandleByIndex", index)
        if gpu is None:
            continue
        for handle in (gpu, *_mig_handles(library, gpu)):
            if _unless_gone(library, "nvmlDeviceGetUUID", handle) == uuid:
                return handle
    raise Gone(refusal)


def _mig_handles(library: Library, gpu: Any) -> Iterator[Any]:
    try:
        most = library.call("nvmlDeviceGetMaxMigDeviceCount", gpu)
    except Failed as failed:
        if failed.says is Says.LOST or failed.code in ORDINARY:
            return
        raise
    handles = (
        _unless_gone(library, "nvmlDeviceGetMigDeviceHandleByIndex", gpu, number) for number in range(min(most, MOST))
    )
    yield from (handle for handle in handles if handle is not None)


def _unless_gone(library: Library, name: str, *arguments: Any) -> Any:
    """What the call gives, None where there is nothing, or nothing any more. Raises `Failed` where that is not sure."""
    try:
        return library.call(name, *arguments)
    except Failed as failed:
        if failed.says is Says.LOST or failed.code in NOT_THERE:
            return None
        raise
