"""Which GPUs are ours: what NVIDIA_VISIBLE_DEVICES, CUDA_VISIBLE_DEVICES, and MPS variables mean here.

The container runtime reads NVIDIA_VISIBLE_DEVICES when it makes the container: in there NVML lists no other GPUs,
renumbered from 0, with UUIDs unchanged (container-lab.md section 4). An index is then the host's, and must not select
again. It does select where more GPUs are listed than are named: nobody has selected yet, as on a machine without
containers. Index 0 of CUDA_VISIBLE_DEVICES is always the first GPU that the pod has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

_OLD_MIG = re.compile(r"MIG-(GPU-[0-9A-Fa-f-]+)/([0-9]{1,9})/([0-9]{1,9})", re.IGNORECASE)
_SHORTEST = 5  # characters of a UUID's beginning that name a GPU: "GPU-" alone would name each
_DIGITS = 9  # of a number; Python refuses to read thousands
_MPS = ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT")


@dataclass(frozen=True, slots=True)
class Visible:
    """What the environment says of GPUs; None where a variable is not set, which is not the same as empty.

    Args:
        nvidia: NVIDIA_VISIBLE_DEVICES.
        cuda: CUDA_VISIBLE_DEVICES.
        mps: whether a variable of the Multi-Process Service is set.
        library_path: LD_LIBRARY_PATH, where libnvidia-ml.so.1 is looked for before the system's places.
    """

    nvidia: str | None = None
    cuda: str | None = None
    mps: bool = False
    library_path: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """From the variables of an environment."""
        return cls(
            environment.get("NVIDIA_VISIBLE_DEVICES"),
            environment.get("CUDA_VISIBLE_DEVICES"),
            any(environment.get(name) for name in _MPS),
            environment.get("LD_LIBRARY_PATH", ""),
        )


class Device(Protocol):
    """As much of a GPU, or of a MIG instance, as selecting needs; see `pilot.resources.gpu.Gpu`."""

    @property
    def uuid(self) -> str:
        """GPU-... or MIG-..., "" of a GPU that does not answer."""

    @property
    def parent(self) -> str:
        """UUID of the GPU that a MIG instance is part of, else ""."""

    @property
    def index(self) -> int:
        """NVML's number of the GPU, or of the instance's parent."""

    @property
    def instance(self) -> int | None:
        """The MIG instance's number in its parent."""

    @property
    def gpu_instance_id(self) -> int | None:
        """NVML's of a MIG instance: it has this part of the GPU."""

    @property
    def compute_instance_id(self) -> int | None:
        """NVML's of a MIG instance, within its GPU instance."""


D = TypeVar("D", bound=Device)


def forbidden(visible: Visible, device_nodes: bool) -> str:
    """Why there can be no GPU, whatever NVML would list; "" if there can.

    ``void`` says that the runtime's hook has put nothing in. CDI puts in GPUs and the variable with this value
    (nvidia-container-toolkit#395), so where there are nodes in /dev, they count.
    """
    if visible.nvidia is not None:
        value = visible.nvidia.strip().lower()
        if value in {"", "none"} or (value == "void" and not device_nodes):
            return f"NVIDIA_VISIBLE_DEVICES is {value or 'empty'}"
    if visible.cuda is not None and visible.cuda.strip() in {"", "-1"}:
        return f"CUDA_VISIBLE_DEVICES is {visible.cuda.strip() or 'empty'}"
    return ""


def select(devices: Sequence[D], count: int, visible: Visible) -> tuple[list[D], list[str]]:
    """The devices that are ours, and what is to be said about it.

    Args:
        devices: all that NVML lists, MIG instances in place of their GPUs.
        count: how many GPUs NVML lists.
        visible: what the environment says.
    """
    ours, remarks = _by_runtime(devices, count, visible.nvidia)
    if visible.cuda is None:
        return ours, remarks
    chosen, more = _by_cuda(ours, _entries(visible.cuda))
    return chosen, remarks + more


def time_slices(visible: Visible) -> bool:
    """Whether an id is that of a time slice (``GPU-...::3``): the device plugin makes several of one GPU."""
    return visible.nvidia is not None and "::" in visible.nvidia


def _by_runtime(devices: Sequence[D], count: int, value: str | None) -> tuple[list[D], list[str]]:
    """As NVIDIA's container runtime selects."""
    # A path is the device plugin's strategy `volume-mounts`: the runtime has found the ids there, and selected.
    if value is None or value.strip().lower() in {"all", "void"} or value.startswith("/"):
        return list(devices), []
    entries = [_plain(one) for one in _entries(value)]
    if "all" in entries:
        return list(devices), []
    by_number = [one for one in entries if _place(one) is not None]
    if len(by_number) == len(entries) and _has_selected(by_number, devices, count):
        return list(devices), []
    found, missing = _union(devices, [(one, _runtime_test(one)) for one in entries])
    return found, [f"{one} of NVIDIA_VISIBLE_DEVICES is not here" for one in missing]


def _has_selected(entries: Sequence[str], devices: Sequence[D], count: int) -> bool:
    """Whether what NVML lists is already what these host's numbers name."""
    if any(int(one.partition(":")[0]) >= count for one in entries):
        return True
    instances = {one for one in entries if ":" in one}
    if instances == set(entries):
        return len(instances) == sum(device.instance is not None for device in devices)
    return len({one.partition(":")[0] for one in entries}) == count


def _runtime_test(entry: str) -> Callable[[Device], bool]:
    """What an entry means: ``0``, ``0:1``, or a name; a GPU in MIG mode is all of its instances."""
    place = _place(entry)
    if place is None:
        return lambda device: bool(_named(device, entry))
    gpu, instance = place
    return lambda device: device.index == gpu and instance in {None, device.instance}


def _place(entry: str) -> tuple[int, int | None] | None:
    """The numbers of ``0`` and ``0:1``, a GPU's and a MIG instance's; None if it is neither."""
    gpu, colon, instance = entry.partition(":")
    if not _is_number(gpu) or (colon and not _is_number(instance)):
        return None
    return int(gpu), int(instance) if colon else None


def _named(device: Device, entry: str) -> str:
    """The UUID, the device's or its GPU's, that an entry names; "" if neither.

    It is a UUID, or its beginning. ``MIG-GPU-<uuid>/<GPU instance>/<compute instance>`` is what drivers before R470
    call a MIG instance, and newer ones understand (MIG user guide); numbers have no beginnings.
    """
    if "/" in entry:
        old = _OLD_MIG.fullmatch(entry)
        ids = (device.gpu_instance_id, device.compute_instance_id)
        same = old is not None and _begins(device.parent, old[1]) and ids == (int(old[2]), int(old[3]))
        return device.uuid if same or device.uuid.lower() == entry.lower() else ""
    return next((uuid for uuid in (device.uuid, device.parent) if _begins(uuid, entry)), "")


def _union(devices: Sequence[D], tests: Sequence[tuple[str, Callable[[Device], bool]]]) -> tuple[list[D], list[str]]:
    """The devices that any test names, in NVML's order, and the entries that name none."""
    found = [device for device in devices if any(test(device) for _, test in tests)]
    return found, [entry for entry, test in tests if not any(map(test, devices))]


def _by_cuda(devices: Sequence[D], entries: Sequence[str]) -> tuple[list[D], list[str]]:
    """As CUDA selects: in the order of the entries, up to the first that is not valid (CUDA guide, 5.2.1.1).

    Indices are NVML's. CUDA's own are the same but where GPUs of several models are in one pod and
    CUDA_DEVICE_ORDER is not PCI_BUS_ID. Of a GPU in MIG mode, CUDA shows the first instance.
    """
    chosen: list[D] = []
    for entry in entries:
        named = _cuda_device(devices, entry)
        if named is None:
            remark = f"CUDA_VISIBLE_DEVICES ends at {entry!r}, which is no GPU of this pod"
            return chosen, [] if entry == "-1" else [remark]
        if named not in chosen:
            chosen.append(named)
    return chosen, []


def _cuda_device(devices: Sequence[D], entry: str) -> D | None:
    if _is_number(entry):
        numbers = sorted({device.index for device in devices})
        number = numbers[int(entry)] if int(entry) < len(numbers) else None
        return next((device for device in devices if device.index == number), None)
    named = [device for device in devices if _named(device, entry)]
    names = {_named(device, entry) for device in named}
    return named[0] if len(names) == 1 else None


def _entries(value: str) -> list[str]:
    return [one.strip() for one in value.split(",") if one.strip()]


def _plain(entry: str) -> str:
    """Without a CDI kind in front (``nvidia.com/gpu=0``), and a time slice behind (``GPU-...::3``)."""
    return entry.rpartition("=")[2].partition("::")[0]


def _is_number(text: str) -> bool:
    return len(text) <= _DIGITS and text.isascii() and text.isdigit()


def _begins(uuid: str, entry: str) -> bool:
    return len(entry) >= _SHORTEST and uuid.lower().startswith(entry.lower())
