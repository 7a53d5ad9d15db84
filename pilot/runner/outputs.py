"""Stage-out: every declared output is stored at its destination, and verified there."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from pilot.runner.archives import make_archives
from pilot.runner.area import JobArea
from pilot.runner.journal import Kind
from pilot.runner.left import Left, LeftFiles
from pilot.runner.moving import LONGEST_S, ends_of
from pilot.runner.past import Destinations, destinations_json, stored_json
from pilot.runner.pod import Pod
from pilot.staging.lanes.obedience import Mercy, Obedience
from pilot.staging.planning.plan import Way, local_url
from pilot.staging.transfer import Moved, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import Exists, OutputTooLarge, StageError, Stopped, TransferFailed
from pilot.values.events import events
from pilot.values.job import Job, OutputFile
from pilot.values.names import Lfn
from pilot.values.outcome import StoredFile
from pilot.values.stop import FROM_OUTSIDE, Stop

log = events(__name__)

SAVE_S = 600.0
"""For what is saved where no grace period is running out."""

_NAMESPACE = uuid.UUID("6f6b52d1-6a0c-4a6e-9d0a-6c1f5b2f9f10")


@dataclass(frozen=True, slots=True)
class Parcel:
    """A file that is to be stored. ``overwrite``: what is there already is of this attempt, or may go."""

    file: OutputFile
    left: Left
    ways: Sequence[Way]
    overwrite: bool = False

    def transfer(self) -> Transfer:
        """What the lanes are asked for."""
        source = local_url(self.left.path)
        routes = tuple(way.route(source) for way in self.ways)
        size, identity = self.left.size, self.left.identity
        return Transfer(self.file.lfn, "out", routes, size, overwrite=self.overwrite, identity=identity)

    def renamed(self, job: Job) -> Parcel:
        """The same under a name that only this attempt uses, so that nobody else's file can be there."""
        ways = [way.renamed(f".{job.id}.{job.attempt}") for way in self.ways]
        return replace(self, ways=ways, overwrite=True)


def stage_out(
    job: Job,
    destinations: Destinations,
    before: tuple[StoredFile, ...],
    pod: Pod,
    area: JobArea,
    stop: Stop,
    begun: Collection[Lfn] = (),
) -> tuple[StoredFile, ...]:
    """Every declared output is stored and verified. All are looked for before the first is moved.

    What an earlier life has stored ``before`` is not sent again, and what it has ``begun`` to store is replaced.
    A stop of the pilot lets those outputs be finished that fit into their share of the grace period; one of the
    job lets none.
    """
    done = {file.lfn: file for file in before}
    mercy = Mercy(lambda: _outputs_until(pod, stop), lambda: pod.share("save", SAVE_S), pod.hurry)
    try:
        with pod.watchdog.waiting(Deadline.after(LONGEST_S).sooner(pod.deadline)):
            left = LeftFiles(area)
            make_archives(job, area, left, done, Obedience(stop, mercy).check)
            found = left.find([file for file in job.outputs if file.lfn not in done])
        parcels = [
            Parcel(file, found[file.lfn], destinations[file.lfn], overwrite=file.lfn in begun)
            for file in job.outputs
            if file.lfn in found
        ]
        _check_sizes(parcels, pod)
        policy = pod.settings.existing_output
        with closing(send(job, parcels, policy, pod, pod.deadline, stop, mercy)) as stored:
            for file in stored:
                done[file.lfn] = file
    except Stopped as error:
        raise type(error)(f"{error}; {len(done)} of {len(job.outputs)} outputs were stored", error.code) from None
    return tuple(done[file.lfn] for file in job.outputs if file.lfn in done)


def _outputs_until(pod: Pod, stop: Stop) -> Deadline:
    """By when outputs may be on their way after this stop."""
    return pod.share("outputs", 0) if stop.reason in FROM_OUTSIDE else Deadline.after(0)


def _check_sizes(parcels: Sequence[Parcel], pod: Pod) -> None:
    """Refuse what nobody would take, before hours are spent on sending it."""
    most = pod.settings.max_output
    for parcel in parcels:
        size = parcel.left.size
        if most and size > most << 20:
            what = f"the output {parcel.file.lfn} has {size / (1 << 20):.1f} MiB"
            raise OutputTooLarge(f"{what}, and the setting max_output allows {most}")


def send(
    job: Job, parcels: Sequence[Parcel], policy: str, pod: Pod, limit: Deadline, stop: Stop, mercy: Mercy
) -> Generator[StoredFile, None, None]:
    """Each file once it is stored, and recorded. ``policy`` is a word of the setting ``existing_output``.

    Raises the first StageError, or Stopped. To be closed, which ends what is under way.
    """
    if policy == "overwrite":
        parcels = [replace(parcel, overwrite=True) for parcel in parcels]
    pod.journal.write(Kind.STORING, files=[parcel.file.lfn for parcel in parcels])
    renamed: list[Parcel] = []
    by_name = {str(parcel.file.lfn): parcel for parcel in parcels}
    with closing(ends_of([one.transfer() for one in parcels], pod, limit, stop, mercy)) as ends:
        for transfer, end in ends:
            parcel = by_name[transfer.name]
            if isinstance(end, Exists) and policy == "rename" and not parcel.overwrite:
                renamed.append(parcel.renamed(job))
            else:
                yield _stored(job, parcel.file, end, pod)
    if renamed:
        _tell_renamed(renamed, pod)
        yield from send(job, renamed, "error", pod, limit, stop, mercy)


def _tell_renamed(parcels: Sequence[Parcel], pod: Pod) -> None:
    """A next life must not take the places where other files lie for its own."""
    ways: Mapping[Lfn, tuple[Way, ...]] = {parcel.file.lfn: tuple(parcel.ways) for parcel in parcels}
    pod.journal.write(Kind.STORING, files=[], destinations=destinations_json(ways))
    for parcel in parcels:
        log.warning("another file has its place: stored beside it", file=parcel.file.lfn, url=parcel.ways[0].url)


def _stored(job: Job, file: OutputFile, end: Moved | StageError, pod: Pod) -> StoredFile:
    """A file that was sent, and the record of it."""
    if isinstance(end, StageError):
        raise end
    if end.checksum is None:  # not of a file that we have read
        raise TransferFailed(f"{file.lfn}: its checksum is not known", "out")
    stored = StoredFile(file.lfn, guid_of(job, file), end.size, end.checksum, end.route.destination, end.route.endpoint)
    pod.journal.write(Kind.STORED, **stored_json(stored))
    return stored


def guid_of(job: Job, file: OutputFile) -> str:
    """The one of the definition, or one that is the same in each life."""
    return file.guid or str(uuid.uuid5(_NAMESPACE, f"{job.id}:{job.attempt}:{file.lfn}"))
