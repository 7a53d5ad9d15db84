"""The plan of a job's files: where each input comes from, and where each output goes.

Replicas, Rucio and direct access will come in here: the rest of the pilot sees transfers only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote

from pilot.staging.transfer import Transfer
from pilot.values.errors import Direction, NonDeterministic, NoStorage, UntrustedUrl
from pilot.values.job import InputFile, Job, OutputFile
from pilot.values.names import Endpoint, Lfn, Scope, Url
from pilot.values.site import Site, Storage, file_url

_READ = ("read_lan", "read_wan", "pr", "r", "default")
_WRITE = ("write_lan", "write_wan", "pw", "w", "default")
_WRITE_LOG = ("pl", *_WRITE)


@dataclass(frozen=True, slots=True)
class Trust:
    """What a job definition may name by itself: directories of ``file:`` URLs, bases of transformations."""

    input_roots: Sequence[str] = ()
    transform_urls: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to be moved: inputs as transfers, destinations by name for outputs and log."""

    inputs: tuple[Transfer, ...]
    destinations: Mapping[Lfn, tuple[Url, Endpoint | None]]

    @property
    def schemes(self) -> set[str]:
        """The schemes that will be spoken."""
        return {transfer.source.scheme for transfer in self.inputs} | {
            url.scheme for url, _ in self.destinations.values()
        }


def local_url(path: Path) -> Url:
    """A path of ours as a URL."""
    return Url("file://" + quote(str(path)))


def make_plan(job: Job, site: Site, work: Path, trust: Trust) -> Plan:
    """Find source or destination of every file. Raises a StageError naming the first file without one."""
    inputs = [_input(file, site, work, trust) for file in job.inputs]
    if job.transformation is not None:
        inputs.append(_transformation(job.transformation, work, trust))
    outputs = {file.lfn: _destination(file, site, job.id, _WRITE) for file in job.outputs}
    if job.log is not None:
        outputs[job.log.lfn] = log_destination(job, site, job.log)
    return Plan(tuple(inputs), MappingProxyType(outputs))


def log_destination(job: Job, site: Site, log: OutputFile) -> tuple[Url, Endpoint | None]:
    """Where the log tarball goes. Raises NoStorage or NonDeterministic."""
    return _destination(log, site, job.id, _WRITE_LOG)


def _input(file: InputFile, site: Site, work: Path, trust: Trust) -> Transfer:
    if file.url is not None:
        source = _trusted(file.lfn, file.url, trust)
    else:
        storage = _storage(file.lfn, file.endpoint, site, "in")
        source = _url(file.lfn, file.scope, storage, _READ, "in")
    return Transfer(file.lfn, "in", source, local_url(work / file.lfn), file.size, file.checksum)


def _trusted(lfn: str, url: Url, trust: Trust) -> Url:
    """A URL of the job itself; one of our own file system only below the roots that settings name."""
    if url.scheme == "file":
        path = os.path.realpath(url.path)
        if not any(Path(path).is_relative_to(os.path.realpath(root)) for root in trust.input_roots):
            raise UntrustedUrl(f"{lfn}: {url} is not below a directory of the setting input_roots")
    return url


def _transformation(url: Url, work: Path, trust: Trust) -> Transfer:
    if not any(url.startswith(base.rstrip("/") + "/") for base in trust.transform_urls if base):
        raise UntrustedUrl(f"transformation {url}: not below a base URL of the setting transform_urls")
    name = Lfn(url.path.rsplit("/", 1)[-1])
    return Transfer(name, "in", url, local_url(work / name))


def _destination(file: OutputFile, site: Site, job_id: int, activities: tuple[str, ...]) -> tuple[Url, Endpoint | None]:
    storage = _storage(file.lfn, file.endpoint or _default_endpoint(site, activities), site, "out")
    return _url(file.lfn, file.scope or Scope(f"job.{job_id}"), storage, activities, "out"), storage.name


def _default_endpoint(site: Site, activities: tuple[str, ...]) -> Endpoint | None:
    """The queue's own storage for this kind of file, where the job names none."""
    names = (name for activity in activities for name in site.queue.astorages.get(activity, ()))
    return next(names, None)


def _storage(lfn: str, endpoint: Endpoint | None, site: Site, direction: Direction) -> Storage:
    if endpoint is None:
        raise NoStorage(f"{lfn}: neither the job nor the queue names a storage endpoint", direction)
    storage = site.storages.get(endpoint)
    if storage is None:
        raise NoStorage(f"{lfn}: the storage data have no endpoint {endpoint}", direction)
    return storage


def _url(lfn: Lfn, scope: Scope | None, storage: Storage, activities: tuple[str, ...], direction: Direction) -> Url:
    if not storage.deterministic or scope is None:
        what = "has no scope" if scope is None else f"{storage.name} is not deterministic"
        raise NonDeterministic(f"{lfn}: its path cannot be computed: {what}", direction)
    protocol = storage.protocol(*activities)
    if protocol is None:
        raise NoStorage(f"{lfn}: {storage.name} has no protocol for {activities[0]} that we speak", direction)
    try:
        return file_url(protocol, scope, lfn)
    except ValueError as error:
        raise NoStorage(f"{lfn}: {storage.name}: {error}", direction) from None
