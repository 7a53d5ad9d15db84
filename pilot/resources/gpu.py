"""GPUs that the pod has, as NVML tells them through a process of its own (`pilot.resources.nvml`).

Identified by UUID everywhere: indices are the host's in one place and the container's in another. Where there is no
GPU, or NVML does not work, there is one line that says so, and the pilot goes on. Without device node and library no
process is started.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pilot.processes.starting import is_scarce
from pilot.resources.nvml_process import NvmlGoneError, NvmlProcess, device_nodes, library_folders
from pilot.resources.visible import Visible, forbidden, select, time_slices
from pilot.values.deadline import Deadline
from pilot.values.stop import Waitable

__all__ = ["Gpu", "GpuSample", "GpuSampler", "Gpus", "Visible", "choose", "cuda_visible", "find_gpus", "unhealthy"]

_ANY = Visible()
_ROOT = Path("/")
_MIB = 1 << 20
_GARBAGE = "the process for NVML gives garbage"
_MOST_FAILURES = 3  # in a row; then the sampler stops asking, since each may cost its whole limit


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device that a job can have: a GPU, or a MIG instance of one. None is "not told", as by MIG instances.

    Args:
        uuid: GPU-... or MIG-...; "" of a GPU that is so broken that it does not say.
        name: NVML's, such as NVIDIA H100 80GB HBM3.
        memory_bytes: all of its memory, or of its instance. None where NVML does not tell it: of a GPU that has none
            of its own but the machine's (GB10, Jetson), or because the question was refused this once.
        mig: whether it is a MIG instance; its GPU is then not a device of its own.
        healthy: whether a job may have it.
        index: NVML's number of the GPU in this pod, or of the instance's GPU.
        parent: UUID of the GPU that a MIG instance is part of.
        instance: number of a MIG instance in its GPU.
        gpu_instance_id: with ``compute_instance_id``, what the older name of a MIG instance holds
            (``MIG-GPU-.../1/0``).
        used_bytes: memory that processes hold now; before driver 510 with what the driver keeps for itself.
        processes: how many processes compute on it; their numbers are the host's, so nothing more can be said.
        utilisation: percent of the last moments (at most 1 s) in which something ran on it.
        power_w: watts, now.
        temperature_c: degrees Celsius of the GPU.
        energy_j: joules since the driver was loaded; since Volta.
        why: why it is not healthy.
        architecture: such as Hopper; from its compute capability.
    """

    uuid: str
    name: str
    memory_bytes: int | None
    mig: bool
    healthy: bool
    index: int
    parent: str = ""
    instance: int | None = None
    gpu_instance_id: int | None = None
    compute_instance_id: int | None = None
    used_bytes: int | None = None
    processes: int | None = None
    utilisation: float | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    energy_j: float | None = None
    why: str = ""
    architecture: str = ""

    def as_json(self) -> dict[str, Any]:
        """Its fields, for ``pilot probe --json``."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Gpus:
    """What the pod has of them.

    Args:
        devices: in NVML's order, or in that of CUDA_VISIBLE_DEVICES.
        driver: version of the NVIDIA driver, such as 550.90.07.
        cuda: the newest CUDA that this driver can run, such as 12.4.
        note: one line where there is none, or something is wrong.
        shared: "time slices" or "MPS" where it can be seen that others work on the same GPUs. Time slices can be seen
            only where an id tells (``GPU-...::3``); the device plugin usually hides them.
    """

    devices: tuple[Gpu, ...] = ()
    driver: str = ""
    cuda: str = ""
    note: str = ""
    shared: str = ""

    def as_json(self) -> dict[str, Any]:
        """An object for ``pilot probe --json``."""
        return asdict(self)


def find_gpus(
    visible: Visible = _ANY, limit_s: float = 10.0, sysroot: Path = _ROOT, wakers: Collection[Waitable] = ()
) -> Gpus:
    """Look now. Takes ``limit_s`` seconds at most, the start of NVML's process as many at most, and never fails.

    Args:
        visible: what the environment says of GPUs.
        limit_s: for NVML as a whole; and for its process, while the system has none to give (usually 0.15 s).
        sysroot: where dev, usr and etc are looked for.
        wakers: what ends the wait for a process.
    """
    nodes = device_nodes(sysroot)
    if reason := forbidden(visible, nodes):
        return Gpus(note=f"no GPU: {reason}")
    folders = library_folders(visible.library_path, sysroot)
    if folders is None and not nodes:
        return Gpus(note="no GPU: neither a device in /dev nor libnvidia-ml.so.1 is here")
    try:
        with NvmlProcess(folders or [], Deadline.after(limit_s), *wakers) as nvml:
            answer = nvml.ask({"op": "look"}, limit_s)
    except NvmlGoneError as gone:
        return Gpus(note=f"no GPU: {gone}")
    if "error" in answer:
        return Gpus(note=f"no GPU: {answer['error']}")
    try:
        return _selected(answer, visible, sysroot)
    except (KeyError, TypeError, AttributeError):
        return Gpus(note=f"no GPU: {_GARBAGE}")


def _selected(answer: dict[str, Any], visible: Visible, sysroot: Path) -> Gpus:
    """Ours, of all that NVML lists."""
    mps = sum(facts.pop("mps_processes", None) or 0 for facts in answer["gpus"])
    listed = [Gpu(**facts) for facts in answer["gpus"]]
    devices, remarks = select(listed, answer["count"], visible)
    remarks += _illnesses([device for device in listed if device in devices or not device.uuid]) + answer["remarks"]
    if not devices and not remarks:
        remarks = ["CUDA_VISIBLE_DEVICES names none" if listed else "NVML lists none"]
    return Gpus(
        devices=tuple(devices),
        driver=answer["driver"],
        cuda=answer["cuda"],
        note=("" if devices else "no GPU: ") + "; ".join(remarks),
        shared=_shared(visible, mps, sysroot),
    )


def _illnesses(devices: Sequence[Gpu]) -> list[str]:
    """One text for each reason: the instances of a GPU share theirs."""
    ill: dict[str, list[str]] = {}
    for device in devices:
        if not device.healthy:
            ill.setdefault(device.why, []).append(device.uuid or f"GPU {device.index}")
    return [f"not healthy: {', '.join(names)}: {why}" for why, names in ill.items()]


def _shared(visible: Visible, mps_processes: int, sysroot: Path) -> str:
    if visible.mps or mps_processes or (sysroot / "tmp/nvidia-mps/control").exists():
        return "MPS"
    return "time slices" if time_slices(visible) else ""


def unhealthy(gpus: Gpus, expected: Sequence[str], most_used_bytes: int = 500 * _MIB) -> str:
    """Why a job should not be started on the GPUs of ``expected`` (their UUIDs when the pilot started); "" if it may.

    ``most_used_bytes`` is what an idle GPU may hold; more is somebody else's, and may go away within seconds. It is
    not looked at where GPUs are known to be shared: there it is no fault.
    """
    devices = {device.uuid: device for device in gpus.devices}
    for uuid in expected:
        device = devices.get(uuid)
        if device is None and not uuid:  # it did not say who it was, and does now
            continue
        if device is None:
            return f"{uuid} is gone: {gpus.note or 'NVML does not list it any more'}"
        if not device.healthy:
            return f"{uuid or 'a GPU'} is not healthy: {device.why}"
        used = device.used_bytes or 0  # where it is not told, nobody can be blamed
        if used > most_used_bytes and not gpus.shared:
            return f"{uuid}: somebody else holds {used // _MIB} MiB of its memory"
    return ""


def choose(gpus: Gpus, n: int) -> tuple[Gpu, ...]:
    """``n`` devices for a job: healthy, those whose memory is used least first. Raises ValueError if there are fewer.

    A job that wants several gets whole GPUs first: a CUDA process can use one MIG instance at most.
    """
    healthy = [device for device in gpus.devices if device.healthy]
    if not 0 <= n <= len(healthy):
        raise ValueError(f"{n} GPUs are wanted, and there are {len(healthy)}")
    healthy.sort(key=lambda device: (n > 1 and device.mig, device.used_bytes or 0, device.index, device.instance or 0))
    return tuple(healthy[:n])


def cuda_visible(devices: Sequence[Gpu]) -> str:
    """The payload's CUDA_VISIBLE_DEVICES: UUIDs, or "" for none, which hides all GPUs."""
    return ",".join(device.uuid for device in devices)


@dataclass(frozen=True, slots=True)
class GpuSample:
    """What a device does at one moment of a job; None where it does not tell, or NVML did not answer.

    Args:
        uuid: which one.
        utilisation: percent, as in `Gpu`.
        used_bytes: memory held on it.
        energy_j: joules since the sampler's first sample; of all that runs on it.
        lost: NVML does not know it any more, or calls it lost: the payload on it cannot succeed. That NVML does not
            answer, or refuses, does not make it so.
        why: why it is lost, or why a figure is missing.
    """

    uuid: str
    utilisation: float | None = None
    used_bytes: int | None = None
    energy_j: float | None = None
    lost: bool = False
    why: str = ""


class GpuSampler:
    """Samples of a job's devices, by one process that lives as long as the job; none without devices.

    To be used by one thread that lives as long: the process dies with it. That thread should also be the one that
    looks for the payload's processes, to which ``pid`` does not belong; it changes if NVML had to be started again.
    """

    def __init__(self, visible: Visible, uuids: Sequence[str], sysroot: Path = _ROOT) -> None:
        self._folders = library_folders(visible.library_path, sysroot) or []
        self._uuids = list(uuids)
        self._first_j: dict[str, float] = {}
        self._failures = 0
        self._is_wanting = False
        self._process: NvmlProcess | None = None
        self._why = ""
        if uuids:
            self._start()

    @property
    def pid(self) -> int | None:
        """The process, if there is one."""
        return None if self._process is None or self._process.ended else self._process.pid

    def sample(self, limit_s: float = 5.0) -> tuple[GpuSample, ...]:
        """One sample per device, within ``limit_s`` seconds.

        A process that hangs or crashes is replaced by the next call; after three in a row no more is asked.
        """
        if not self._uuids:
            return ()
        if self._failures >= _MOST_FAILURES:
            return self._nothing()
        if self.pid is None:
            self._start()
        answer = self._ask(limit_s)
        if "error" in answer:
            self._failures += not self._is_wanting
            self._why = answer["error"]
            return self._nothing()
        self._failures = 0
        return tuple(self._since_first(sample) for sample in answer["samples"])

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()

    def _start(self) -> None:
        """Not waited for: the next sample will try again, and a system without a process to give is no failure."""
        self._is_wanting = False
        try:
            self._process = NvmlProcess(self._folders)
        except NvmlGoneError as gone:
            self._why, self._is_wanting = str(gone), is_scarce(gone)

    def _ask(self, limit_s: float) -> dict[str, Any]:
        if self._process is None or self._process.ended:
            return {"error": self._why}
        try:
            answer = self._process.ask({"op": "sample", "uuids": self._uuids}, limit_s)
        except NvmlGoneError as gone:
            return {"error": str(gone)}
        return answer if "error" in answer else self._samples(self._process, answer)

    def _samples(self, process: NvmlProcess, answer: dict[str, Any]) -> dict[str, Any]:
        """One per device; the process ends if there are others: what it says next may belong to another question."""
        try:
            samples = [GpuSample(**facts) for facts in answer["samples"]]
        except (KeyError, TypeError):
            samples = []
        if [sample.uuid for sample in samples] == self._uuids:
            return {"samples": samples}
        process.close()
        return {"error": _GARBAGE}

    def _nothing(self) -> tuple[GpuSample, ...]:
        return tuple(GpuSample(uuid, why=self._why) for uuid in self._uuids)

    def _since_first(self, sample: GpuSample) -> GpuSample:
        """Its energy counted from the first sample, or from a reset of the GPU, where the counter begins at 0."""
        if sample.energy_j is None:
            return sample
        first = min(self._first_j.get(sample.uuid, sample.energy_j), sample.energy_j)
        self._first_j[sample.uuid] = first
        return replace(sample, energy_j=sample.energy_j - first)
