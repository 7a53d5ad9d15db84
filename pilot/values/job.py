"""Job: what the server asked for, decoded and checked; nothing in it can be half right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from pilot.values.hpo import PointWork
from pilot.values.names import Checksum, Dataset, Endpoint, Guid, Lfn, Scope, Url


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that the payload reads. ``size`` in bytes; what is None is unknown.

    ``urls`` are places where the job itself says that it lies, the best first.
    """

    lfn: Lfn
    scope: Scope | None = None
    dataset: Dataset | None = None
    guid: Guid | None = None
    size: int | None = None
    checksum: Checksum | None = None
    endpoint: Endpoint | None = None
    urls: tuple[Url, ...] = ()
    executable: bool = False


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that the payload leaves, or the log tarball."""

    lfn: Lfn
    scope: Scope | None = None
    dataset: Dataset | None = None
    guid: Guid | None = None
    endpoint: Endpoint | None = None
    may_be_missing: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt of one job. Memory and disk in MiB, times in seconds; what is None is unlimited.

    ``zips`` are outputs that the pilot makes, each of the files named behind it; ``alt_stage_out`` says whether
    outputs may go to a second storage (None: as the queue has it). ``hpo`` makes it a hyper-parameter job, whose
    ``command`` is run for each point.
    """

    id: int
    attempt: int
    command: str
    transformation: Url | None = None
    task_id: int | None = None
    label: str = ""
    inputs: tuple[InputFile, ...] = ()
    outputs: tuple[OutputFile, ...] = ()
    log: OutputFile | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cores: int = 1
    gpus: int = 0
    memory_mib: int | None = None
    disk_mib: int | None = None
    walltime_s: int | None = None
    debug: bool = False
    zips: Mapping[Lfn, tuple[Lfn, ...]] = field(default_factory=lambda: MappingProxyType({}))
    alt_stage_out: bool | None = None
    overwrite_queue: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    overwrite_storages: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    hpo: PointWork | None = None
    secrets: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
