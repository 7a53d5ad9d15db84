"""Stage-in: every input, and the job's secrets, in the work directory before the payload starts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from pilot.resources.probe import Resources
from pilot.runner.area import JobArea
from pilot.runner.moving import ends_of
from pilot.runner.pod import Pod
from pilot.staging.lanes.diskroom import DiskRoom
from pilot.staging.planning import metalink
from pilot.staging.planning.plan import Plan, local_url
from pilot.staging.planning.replicas import Documents
from pilot.staging.transfer import Transfer
from pilot.values.errors import InputsTooLarge, StageError, TransferFailed
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.names import Url
from pilot.values.stop import Stop

log = events(__name__)

SECRETS_NAME = "panda_secrets.json"


def check_inputs(job: Job, pod: Pod) -> None:
    """Refuse more input than the queue allows, before a byte is moved."""
    _Room({file.lfn: file.size for file in job.inputs}, pod.site.queue.maxinputsize_mib).check()


def disk_room(job: Job, resources: Resources) -> DiskRoom:
    """What the job's inputs may take of the disk."""
    return DiskRoom(resources.disk_bytes, resources.limits_from["disk"], job.disk_mib << 20 if job.disk_mib else None)


def stage_in(job: Job, plan: Plan, pod: Pod, area: JobArea, stop: Stop, disk: DiskRoom | None = None) -> None:
    """Every input lies in the work directory, verified; programs among them can be executed.

    Raises NoSpace where they take more than ``disk`` has.
    """
    if job.secrets:
        _write_secrets(job, area)
    documents = _documents(plan.documents, pod, area, stop) if plan.documents else {}
    transfers = plan.complete(documents)
    known = {one.name: one.size for one in transfers}
    room = _Room({file.lfn: known[file.lfn] for file in job.inputs}, pod.site.queue.maxinputsize_mib)
    room.check()
    if disk is not None:
        disk.check_known(transfers)
    programs = {file.lfn for file in job.inputs if file.executable}
    with closing(ends_of(transfers, pod, pod.deadline, stop, count=room.count, disk=disk)) as ends:
        for transfer, end in ends:
            if isinstance(end, StageError):
                raise end
            room.count(transfer, end.size)
            if transfer.name in programs or end.route.source == job.transformation:
                Path(end.route.destination.path).chmod(0o755)


def _write_secrets(job: Job, area: JobArea) -> None:
    """The job's secrets, for its payload only: the name is the one that PanDA's users know."""
    with closing(area.work_folder.create(SECRETS_NAME)) as file:
        file.append(json.dumps(dict(job.secrets)).encode())


class _Room:
    """The sum of the inputs, and what the queue allows (MiB, 0: all). What nobody knows is counted as it comes."""

    def __init__(self, sizes: dict[str, int | None], limit_mib: int) -> None:
        """``sizes``: of each input, in bytes."""
        self._sizes = {name: size or 0 for name, size in sizes.items()}
        self._unknown = {name for name, size in sizes.items() if size is None}
        self._limit_mib = limit_mib

    def count(self, transfer: Transfer, moved: int) -> None:
        """So much of an input has come. Raises InputsTooLarge."""
        if transfer.name in self._unknown:
            self._sizes[transfer.name] = moved
            self.check()

    def check(self) -> None:
        """Raise InputsTooLarge if it is too much."""
        total = sum(self._sizes.values())
        if self._limit_mib and total > self._limit_mib << 20:
            raise InputsTooLarge(f"the inputs have {total >> 20} MiB, and the queue allows {self._limit_mib}")


def _documents(urls: Iterable[Url], pod: Pod, area: JobArea, stop: Stop) -> Documents:
    """Metalinks, by URL: what each holds, or why it could not be had. They are the pilot's, not the payload's."""
    with area.fresh("metalinks") as made:
        folder = made.path
    found: dict[Url, bytes | StageError] = {}
    transfers = [_document(url, folder / f"{number}.xml") for number, url in enumerate(urls)]
    with closing(ends_of(transfers, pod, pod.deadline, stop, count=_check_document)) as ends:
        for transfer, end in ends:
            route = transfer.routes[0]
            found[route.source] = end if isinstance(end, StageError) else _content(Path(route.destination.path))
    return found


def _document(url: Url, target: Path) -> Transfer:
    return Transfer.plain(f"metalink {url.path.rpartition('/')[2]}", "in", url, local_url(target))


def _check_document(transfer: Transfer, moved: int) -> None:
    """Raise TransferFailed for what no metalink can be, before it fills the disk."""
    if moved > metalink.MOST_BYTES:
        raise TransferFailed(f"{transfer.name}: it has more than {metalink.MOST_BYTES} bytes")


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(metalink.MOST_BYTES + 1)
