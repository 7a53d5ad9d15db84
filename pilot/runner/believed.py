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
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from pilot.payload.proven import Proof, doubted
from pilot.runner.area import JobArea
from pilot.runner.hpo.book import Entries
from pilot.runner.journal import Kind
from pilot.runner.moving import ends_of
from pilot.runner.outputs import guid_of
from pilot.runner.past import Destinations, Past
from pilot.runner.pod import Pod
from pilot.staging.planning.plan import Way, local_url
from pilot.staging.transfer import Hop, Moved, Route, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import Denied, Exists, FileMissing, Mismatch
from pilot.values.events import events
from pilot.values.job import Job, OutputFile
from pilot.values.names import Lfn
from pilot.values.outcome import StoredFile
from pilot.values.site import Site
from pilot.values.stop import Stop

log = events(__name__)

_IS_ANOTHER = (Exists, Denied, Mismatch, FileMissing)
"""A look that says: not there, not the same, or not for us to see. It is sent again."""


def area_of(past: Past, volume: Path) -> JobArea | None:
    """The job's directory; None if it has none, or names another's."""
    if past.area is None:
        return None
    name = past.area.root.name
    if re.fullmatch(rf"job-{past.job_id}-{past.attempt}-[0-9a-f]{{8}}", name) is None:
        log.error("the journal names a directory that is not this job's: left alone", name=name[:100])
        return None
    root = volume / name
    with suppress(OSError):
        return JobArea(root) if stat.S_ISDIR(root.lstat().st_mode) else None
    return None


def proofs_of(past: Past) -> list[Proof]:
    """What proves the processes of its payload."""
    told = [past.proof] if not past.points else [entry.proof for entry in past.points.values()]
    return [proof for one in told if one is not None and (proof := doubted(one)) is not None]


def points_of(past: Past, area: JobArea) -> Entries:
    """The points; the directory of one is below the job's."""
    root = past.area.root if past.area is not None else area.root

    def below(folder: Path | None) -> Path | None:
        if folder is None or not folder.is_relative_to(root) or ".." in folder.parts:
            return None
        return area.root / folder.relative_to(root)

    return MappingProxyType({name: replace(entry, folder=below(entry.folder)) for name, entry in past.points.items()})


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


def still_stored(
    past: Past, job: Job, places: Destinations, area: JobArea, pod: Pod, limit: Deadline, stop: Stop
) -> tuple[StoredFile, ...]:
    """The files that lie where the journal says, looked at; those that are not there are sent again, from here.

    What cannot be had there is left out. Raises a StageError where a storage does not answer, and Stopped.
    """
    declared = {file.lfn: file for file in (*job.outputs, *([job.log] if job.log is not None else []))}
    claims = {
        str(file.lfn): (declared[file.lfn], file, way)
        for file in past.stored
        if file.lfn in declared
        for way in places.get(file.lfn, ())
        if way.url == file.url
    }
    if not claims:
        return ()
    log.info("looking at what an earlier life has stored", files=len(claims))
    pod.journal.write(Kind.STORING, files=list(claims))
    transfers = [_look(file, claim, way, job, area) for file, claim, way in claims.values()]
    found = []
    with closing(ends_of(transfers, pod, limit, stop)) as ends:
        for transfer, end in ends:
            file, claim, way = claims[transfer.name]
            if isinstance(end, Moved):
                found.append(_found(job, file, claim, way, end))
            elif not isinstance(end, _IS_ANOTHER):
                raise end
            else:
                log.warning("what was stored is not there any more", file=file.lfn, why=str(end))
            _clear(transfer, area)
    return tuple(found)


def _look(file: OutputFile, claim: StoredFile, way: Way, job: Job, area: JobArea) -> Transfer:
    """The file as it is here is sent there, where the same bytes will do; without one here it is read back."""
    here = area.root / file.lfn if file is job.log else area.work / file.lfn
    with suppress(OSError):
        found = here.lstat()
        if stat.S_ISREG(found.st_mode):
            return Transfer(file.lfn, "out", (replace(way, via=None).route(local_url(here)),), found.st_size)
    back = Route((Hop(claim.url, local_url(_read_back(file.lfn, area))),), way.endpoint)
    return Transfer(file.lfn, "in", (back,), claim.size, claim.checksum)


def _read_back(lfn: str, area: JobArea) -> Path:
    return area.root / f"{lfn}.stored"


def _clear(transfer: Transfer, area: JobArea) -> None:
    if transfer.direction == "in":
        with suppress(OSError):
            _read_back(transfer.name, area).unlink()


def _found(job: Job, file: OutputFile, claim: StoredFile, way: Way, end: Moved) -> StoredFile:
    checksum = end.checksum or claim.checksum
    return StoredFile(file.lfn, guid_of(job, file), end.size, checksum, way.url, way.endpoint)


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
