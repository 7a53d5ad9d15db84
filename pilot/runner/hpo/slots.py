"""Slots: the places of a pod in which a point can be evaluated, each with its share of what the job is lent.

One for each GPU or MIG instance, k for each by setting; one for each sidecar, where there are any; one for each group
of cores on a pod without GPUs. A slot is set aside when its evaluations fail while those of others succeed; where
several share a GPU and its memory is not enough, one of them is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pilot.payload.environment import Grant
from pilot.payload.sidecar import Sidecar
from pilot.runner.lending import Lent
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.settings import Settings

log = events(__name__)

_MOST_FAILURES = 2  # in a row, while others succeed
_HARD_CODED = "/srv/workDir"


@dataclass(slots=True, eq=False)
class Slot:
    """One place. ``aside`` says why it is not used any more, "" while it is."""

    number: int
    grant: Grant
    sidecar: Sidecar | None = None
    busy: bool = False
    aside: str = ""
    failures: int = 0
    failed: int = 0
    succeeded: int = 0

    @property
    def device(self) -> str:
        """What evaluations of this slot compute on, for people and records."""
        return self.grant.gpus or (self.sidecar.root.name if self.sidecar else "cpu")


class Slots:
    """All slots of a job."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.all = tuple(slots)

    @property
    def usable(self) -> list[Slot]:
        """Those that are not set aside."""
        return [slot for slot in self.all if not slot.aside]

    @property
    def free(self) -> list[Slot]:
        """Those that could begin now."""
        return [slot for slot in self.usable if not slot.busy]

    def choose(self, avoid: Collection[int]) -> Slot | None:
        """A free slot, not one to ``avoid`` as long as there is another; None to wait for one."""
        free = self.free
        other = [slot for slot in free if slot.number not in avoid]
        if other:
            return other[0]
        elsewhere = [slot for slot in self.usable if slot.number not in avoid]
        return None if elsewhere or not free else free[0]

    def succeeded(self, slot: Slot) -> None:
        """An evaluation of this slot has given a loss."""
        slot.failures = 0
        slot.succeeded += 1

    def failed(self, slot: Slot, why: str) -> None:
        """An evaluation of this slot has failed; the slot is set aside if only here they do."""
        slot.failures += 1
        slot.failed += 1
        others = [one for one in self.usable if one is not slot]
        if slot.failures >= _MOST_FAILURES and any(one.succeeded and not one.failures for one in others):
            self.set_aside(slot, f"{slot.failures} evaluations in a row failed here and not elsewhere: {why}")

    def set_aside(self, slot: Slot, why: str) -> None:
        """Use it no more, in this job."""
        slot.aside = why
        log.warning("slot set aside", slot=slot.number, device=slot.device, why=why)

    def fewer(self, slot: Slot) -> bool:
        """Its device has too little memory for all that share it: whether one less is used from now on."""
        sharing = [one for one in self.usable if one.grant.gpus == slot.grant.gpus and one.sidecar is slot.sidecar]
        if len(sharing) < 2:
            return False
        self.set_aside(slot, f"out of memory: {len(sharing) - 1} at a time from now on")
        return True


def plan_slots(job: Job, lent: Lent, settings: Settings, sidecars: Sequence[Sidecar]) -> Slots:
    """Divide what the job is lent; at least one slot."""
    grant, memory = lent.grant, (job.memory_mib or 0) << 20
    devices: list[tuple[str, Sidecar | None]]
    if sidecars:
        devices = [("", one) for one in sidecars]
    elif lent.gpus:
        devices = [(gpu.uuid, None) for _ in range(settings.points_per_gpu) for gpu in lent.gpus]
    else:
        devices = [("", None)] * (settings.slots or max(1, grant.cores // (settings.slot_cores or job.cores)))
    most = settings.slots or len(devices)
    if memory and not sidecars:
        most = min(most, grant.memory_bytes // memory)
    if _HARD_CODED in job.command and not sidecars:
        log.warning(f"one slot only: the evaluation names {_HARD_CODED}, which all would share")
        most = 1
    devices = devices[: max(1, most)]
    share = Grant(
        cores=max(1, grant.cores // len(devices)),
        memory_bytes=grant.memory_bytes // len(devices),
        scratch_bytes=grant.scratch_bytes // len(devices),
    )
    return Slots([Slot(n, _with_gpu(share, gpu), sidecar) for n, (gpu, sidecar) in enumerate(devices)])


def _with_gpu(share: Grant, gpu: str) -> Grant:
    return Grant(share.cores, share.memory_bytes, share.scratch_bytes, gpu)
