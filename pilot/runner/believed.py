"""What is believed of a past: not what its journal says, but what is found when that is looked at.

Whoever can write to the volume can write a journal, with the right checksums. Therefore

- a job's directory is one below the volume with a name that `JobArea.choose` gives to this attempt;
- a process is the payload's if it carries the mark (`proven.doubted`);
- a place is one in a storage of the site, as the site's own data have it now, under the name of the file;
- a file that was stored is looked at where it lies, and sent again if it is not there, or is another one.

What is left to a forger is what a payload can do to itself: fail, or name other outputs than its job's, which the
server compares with its own list.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from pilot.payload.proven import Proof, doubted
from pilot.runner.area import JobArea
from pilot.runner.hpo.book import Entries
from pilot.runner.journal import Kind
from pilot.runner.lastfile import packed_log
from pilot.runner.left import Left, LeftFiles
from pilot.runner.moving import ends_of
from pilot.runner.outputs import Parcel, guid_of
from pilot.runner.past import Destinations, Past
from pilot.runner.pod import Pod
from pilot.staging.planning.plan import Way, local_url
from pilot.staging.transfer import Hop, Moved, Route, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import Denied, Exists, FileMissing, Mismatch, OutputMissing, StageError
from pilot.values.events import events
from pilot.values.job import Job, OutputFile
from pilot.values.names import Lfn
from pilot.values.outcome import StoredFile
from pilot.values.site import Site
from pilot.values.stop import Stop

log = events(__name__)

_IS_ANOTHER = (Exists, Denied, Mismatch, FileMissing)
"""What a look says of a file that is not there, is not the same, or is not for us to see."""


def area_of(past: Past, volume: Path) -> JobArea | None:
    """The job's directory, which may be gone; None if it had none, or the journal names another's."""
    if past.area is None:
        return None
    name = past.area.root.name
    if re.fullmatch(rf"job-{past.job_id}-{past.attempt}-[0-9a-f]{{8}}", name) is None:
        log.error("the journal names a directory that is not this job's: left alone", name=name[:100])
        return None
    return JobArea(volume / name)


def proofs_of(past: Past) -> list[Proof]:
    """What proves the processes of its payload."""
    told = [past.proof] if not past.points else [entry.proof for entry in past.points.values()]
    return [proof for one in told if one is not None and (proof := doubted(one)) is not None]


def points_of(past: Past, area: JobArea, pod: Pod) -> Entries:
    """The points; the directory of one is below the job's, or a sidecar's."""
    root = past.area.root if past.area is not None else area.root
    sidecars = pod.settings.sidecars

    def believed(folder: Path | None) -> Path | None:
        if folder is None or ".." in folder.parts:
            return None
        if folder.is_relative_to(root):
            return area.root / folder.relative_to(root)
        return folder if sidecars and folder.is_relative_to(sidecars) else None

    return MappingProxyType(
        {name: replace(entry, folder=believed(entry.folder)) for name, entry in past.points.items()}
    )


def places_of(past: Past, site: Site) -> Destinations:
    """Where its files go, as far as the site has these places."""
    found: dict[Lfn, tuple[Way, ...]] = {}
    for lfn, ways in past.destinations.items():
        allowed = tuple(way for way in ways if _is_place(way, lfn, past, site))
        if len(allowed) < len(ways):
            log.error("the journal names places that the site does not have: nothing goes there", file=lfn)
        if allowed:
            found[lfn] = allowed
    return MappingProxyType(found)


def _is_place(way: Way, lfn: Lfn, past: Past, site: Site) -> bool:
    storage = site.storages.get(way.endpoint) if way.endpoint is not None else None
    if storage is None or not storage.holds(way.url):
        return False
    names = (lfn, f"{lfn}.{past.job_id}.{past.attempt}")  # see `Parcel.renamed`
    if PurePosixPath(way.url.path).name not in names:
        return False
    return way.via is None or (PurePosixPath(way.via.path).name == lfn and site.storage_of(way.via) is not None)


def still_stored(past: Past, job: Job, area: JobArea, pod: Pod, limit: Deadline, stop: Stop) -> tuple[StoredFile, ...]:
    """The files that lie where the journal says, looked at. What is not there, or is another file, is sent again.

    Left out is what is neither there nor here. Raises a StageError where that cannot be told, and Stopped.
    """
    claims = {claim.name: claim for claim in _claims(past, job, area, pod.site)}
    if not claims:
        return ()
    log.info("looking at what an earlier life has stored", files=len(claims))
    pod.journal.write(Kind.STORING, files=list(claims))
    found, others = [], []
    for claim, end in _moved([one.look() for one in claims.values()], claims, pod, limit, stop):
        if isinstance(end, Moved):
            found.append(claim.found(job, end))
        elif not isinstance(end, _IS_ANOTHER):
            raise end
        else:
            log.warning("what was stored is not there any more, or is another file", file=claim.name, why=str(end))
            others.append(claim)
    again = [replace(one.look(), overwrite=True) for one in others if one.here is not None]
    for claim, end in _moved(again, claims, pod, limit, stop):
        if isinstance(end, StageError):
            raise end
        found.append(claim.found(job, end))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Claim:
    """That a file lies at a place, as the journal says. ``here``: what it was made of, if that is still there."""

    file: OutputFile
    stored: StoredFile
    way: Way
    here: Left | None
    copy: Path
    """Where it is read back to."""

    @property
    def name(self) -> str:
        return str(self.file.lfn)

    def look(self) -> Transfer:
        """The file that is here is sent there, where the same bytes will do; without one it is read back."""
        if self.here is not None:
            return Parcel(self.file, self.here, [replace(self.way, via=None)]).transfer()
        back = Route((Hop(self.stored.url, local_url(self.copy)),), self.way.endpoint)
        return Transfer(self.name, "in", (back,), self.stored.size, self.stored.checksum)

    def found(self, job: Job, end: Moved) -> StoredFile:
        checksum = end.checksum or self.stored.checksum
        return StoredFile(self.file.lfn, guid_of(job, self.file), end.size, checksum, self.way.url, self.way.endpoint)


def _claims(past: Past, job: Job, area: JobArea, site: Site) -> Iterator[_Claim]:
    """What the journal says to be stored, as far as the job has such files and the site such places."""
    places, left = places_of(past, site), LeftFiles(area)
    declared = {file.lfn: file for file in (*job.outputs, *([job.log] if job.log is not None else []))}
    for number, stored in enumerate(past.stored):
        file = declared.get(stored.lfn)
        way = next((way for way in places.get(stored.lfn, ()) if way.url == stored.url), None)
        if file is None or way is None:
            continue
        here = packed_log(file.lfn, area) if file is job.log else _here(file, left)
        yield _Claim(file, stored, way, here, area.own_path / f"stored.{number}")


def _here(file: OutputFile, left: LeftFiles) -> Left | None:
    try:
        return left.find([file]).get(file.lfn)
    except OutputMissing:
        return None


def _moved(
    transfers: list[Transfer], claims: Mapping[str, _Claim], pod: Pod, limit: Deadline, stop: Stop
) -> Iterator[tuple[_Claim, Moved | StageError]]:
    with closing(ends_of(transfers, pod, limit, stop)) as ends:
        for transfer, end in ends:
            claim = claims[transfer.name]
            with suppress(OSError):
                claim.copy.unlink()
            yield claim, end


def is_backed(past: Past, job: Job, fields: Mapping[str, Any], found: tuple[StoredFile, ...]) -> bool:
    """Whether a final that says ``finished`` says what was ``found``: exit status 0, and each file of the job."""
    if past.damage or past.payload is None or past.payload.stopped or past.payload.exit_code != 0:
        return False
    listed = dict(_listed(fields.get("job_output_report")))
    there = {str(file.lfn): (file.size, file.checksum.value, str(file.url)) for file in found}
    wanted = [file.lfn for file in job.outputs if not file.may_be_missing]
    if job.log is not None:
        wanted.append(job.log.lfn)
    return all(name in listed for name in wanted) and all(there.get(name) == what for name, what in listed.items())


def _listed(report: object) -> Iterator[tuple[str, tuple[Any, Any, Any]]]:
    """Size, checksum and place of each file, as a final lists them; see `telling.final`."""
    with suppress(ValueError, RecursionError):
        value = json.loads(report) if isinstance(report, str) else {}
        for name, one in value.items() if isinstance(value, dict) else ():
            entry = one if isinstance(one, dict) else {}
            yield name, (entry.get("fsize"), entry.get("adler32"), entry.get("surl"))
