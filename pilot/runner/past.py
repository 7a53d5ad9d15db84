"""Past: what the journal proves of the job that an earlier life has left open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pilot.payload.proven import Proof
from pilot.runner.area import JobArea
from pilot.runner.hpo.book import NO_ENTRIES, Entries, folded
from pilot.runner.journal import Kind, Record
from pilot.staging.lanes.standing import origin
from pilot.staging.planning.plan import Way
from pilot.values.hpo import Checkpoints, PointWork
from pilot.values.job import InputFile, Job, OutputFile
from pilot.values.names import Checksum, Endpoint, Guid, Lfn, Url
from pilot.values.outcome import PayloadEnd, StoredFile
from pilot.values.site import Site
from pilot.values.stop import Reason
from pilot.values.usage import GpuUsage, Memory, Usage

Destinations = Mapping[Lfn, tuple[Way, ...]]


@dataclass(frozen=True, slots=True)
class Past:
    """A job that was taken and has no end yet. What is None did not happen, as far as was recorded."""

    job_id: int
    attempt: int | None
    identity: Mapping[str, Any]
    began: datetime
    job: Job | None = None
    area: JobArea | None = None
    destinations: Destinations = field(default_factory=lambda: MappingProxyType({}))
    proof: Proof | None = None
    points: Entries = field(default_factory=lambda: NO_ENTRIES)
    payload: PayloadEnd | None = None
    payload_s: float = 0.0
    trusted: frozenset[str] = frozenset()
    storing: frozenset[Lfn] = frozenset()
    stored: tuple[StoredFile, ...] = ()
    memory: Memory | None = None
    usage: Usage | None = None
    stop: Reason | None = None
    final: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Story:
    """What the journal tells: the job that is open, when a question for one was left open, and the last life."""

    open: Past | None = None
    asked_at: float | None = None
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    life: str = ""
    left: bool = False


def tell(records: tuple[Record, ...]) -> Story:
    """Fold the records. What a newer version has added is passed over."""
    story = Story()
    own = True  # whether the life that speaks is the one that has taken the job
    for record in records:
        kind = str(record.get("kind"))
        own = kind == Kind.TAKEN or (own and kind != Kind.LIFE)
        if kind == Kind.STOP and not own:
            continue
        if kind in _STORY:
            story = replace(story, **_STORY[kind](record))
        elif kind in _JOB and story.open is not None:
            story = replace(story, open=replace(story.open, **_JOB[kind](record)))
        elif kind in _ADDS and story.open is not None:
            story = replace(story, open=replace(story.open, **_ADDS[kind](story.open, record)))
    return story


# --- what is written, and how it is read ------------------------------------------------------------


def taken(job: Job, area: JobArea) -> dict[str, Any]:
    """The facts of a job that its next life needs; no secret and no text of it is among them."""
    return {
        "area": str(area.root),
        "outputs": [_declared(file) for file in job.outputs],
        "log": _declared(job.log) if job.log else None,
        "zips": {archive: list(members) for archive, members in job.zips.items()},
        "inputs": [file.lfn for file in job.inputs],
        "cores": job.cores,
        "hpo": _work_json(job.hpo) if job.hpo else None,
    }


def _work_json(work: PointWork) -> dict[str, Any]:
    """What is needed to tell measured losses; an iDDS that is the PanDA server is where that will be."""
    return {
        "task_id": work.task_id,
        "output_file": work.output_file,
        "metrics": list(work.metrics) if work.metrics else None,
        "idds": work.idds,
        "segment": work.segment,
        "checkpoints": list(work.checkpoints.save) if work.checkpoints else None,
    }


def _work(value: Mapping[str, Any]) -> PointWork:
    metrics, save = value["metrics"], value["checkpoints"]
    output = Lfn(value["output_file"])
    return PointWork(
        task_id=value["task_id"],
        command="",
        point_file=output,
        output_file=output,
        meta_file=output,
        metrics=(Lfn(metrics[0]), Lfn(metrics[1])) if metrics else None,
        idds=value["idds"],
        segment=value["segment"],
        checkpoints=Checkpoints(tuple(save)) if save else None,
    )


def _declared(file: OutputFile) -> dict[str, Any]:
    return {"lfn": file.lfn, "guid": file.guid, "may_be_missing": file.may_be_missing}


def _output(value: Mapping[str, Any]) -> OutputFile:
    guid = Guid(value["guid"]) if value["guid"] else None
    return OutputFile(Lfn(value["lfn"]), guid=guid, may_be_missing=value["may_be_missing"])


def _taken(record: Record) -> Past:
    began = datetime.fromtimestamp(record["time"], UTC)
    past = Past(record["job"], record["attempt"], record["identity"], began)
    if "area" not in record:  # refused: nothing of it was begun
        return past
    job = Job(
        id=record["job"],
        attempt=record["attempt"],
        command="",
        inputs=tuple(InputFile(Lfn(lfn)) for lfn in record["inputs"]),
        outputs=tuple(_output(one) for one in record["outputs"]),
        log=_output(record["log"]) if record["log"] else None,
        zips={Lfn(archive): tuple(map(Lfn, members)) for archive, members in record.get("zips", {}).items()},
        cores=record["cores"],
        hpo=_work(record["hpo"]) if record.get("hpo") else None,
    )
    return replace(past, job=job, area=JobArea(Path(record["area"])))


def destinations_json(destinations: Destinations) -> dict[str, Any]:
    """The ways of each output, for the record `PLANNED`."""
    return {lfn: [[way.url, way.endpoint, way.via] for way in ways] for lfn, ways in destinations.items()}


def trusted(destinations: Destinations, site: Site) -> list[str]:
    """The site's own servers among those that outputs go to: a next life, which knows no site, may log in there."""
    urls = [url for ways in destinations.values() for way in ways for url in (way.url, way.via) if url is not None]
    return sorted({origin(url) for url in urls} & site.origins())


def destinations_from(value: Mapping[str, Any]) -> Destinations:
    """The same, read back."""
    return {Lfn(lfn): tuple(_way(*way) for way in ways) for lfn, ways in value.items()}


def _way(url: str, endpoint: str | None, via: str | None) -> Way:
    return Way(Url(url), Endpoint(endpoint) if endpoint else None, Url(via) if via else None)


def stored_json(file: StoredFile) -> dict[str, Any]:
    """A stored file, for the record `STORED`."""
    return {
        "lfn": file.lfn,
        "guid": file.guid,
        "size": file.size,
        "checksum": str(file.checksum),
        "url": file.url,
        "endpoint": file.endpoint,
    }


def _memory_from(record: Record) -> Memory | None:
    """None where there was no limit."""
    if not record["limit_bytes"]:
        return None
    return Memory(record["memory_bytes"], record["limit_bytes"], record["oom_kills"])


def usage_from(value: Mapping[str, Any]) -> Usage:
    """The last state of the usage, read back."""
    return Usage(**{**value, "gpus": tuple(GpuUsage(**one) for one in value["gpus"])})


def _end_from(record: Record) -> PayloadEnd:
    return PayloadEnd(record["exit_code"], record["cpu_s"], record["max_rss_kib"], stopped=record["stopped"])


def _stored_from(record: Record) -> StoredFile:
    return StoredFile(
        Lfn(record["lfn"]),
        record["guid"],
        record["size"],
        Checksum.parse(record["checksum"]),
        Url(record["url"]),
        Endpoint(record["endpoint"]) if record["endpoint"] else None,
    )


def _storing(past: Past, record: Record) -> dict[str, Any]:
    """What an earlier life has begun to store, and where it went on when another file had its place."""
    renamed = destinations_from(record.get("destinations", {}))
    return {
        "storing": past.storing.union(map(Lfn, record["files"])),
        "destinations": MappingProxyType({**past.destinations, **renamed}),
    }


def _point(past: Past, record: Record) -> dict[str, Any]:
    """One more step of a point; the proof of the evaluation that was started last stands for the payload."""
    proof = {"proof": Proof.from_json(record["proof"])} if "proof" in record else {}
    return {"points": folded(past.points, record), **proof}


# --- what each kind changes: of the story, and of the job that is open -------------------------------------

_STORY: Mapping[str, Callable[[Record], dict[str, Any]]] = {
    Kind.LIFE: lambda record: {
        "settings": record.get("settings", {}),
        "life": record.get("life", ""),
        "left": False,
    },
    Kind.LEFT: lambda _record: {"left": True},
    Kind.ASKING: lambda record: {"asked_at": record["time"]},
    Kind.NOTHING: lambda record: {"asked_at": record["time"] if record["lost"] else None},
    Kind.TAKEN: lambda record: {"open": _taken(record), "asked_at": None},
    Kind.ENDED: lambda _record: {"open": None},
}

_JOB: Mapping[str, Callable[[Record], dict[str, Any]]] = {
    Kind.PLANNED: lambda record: {
        "destinations": destinations_from(record["destinations"]),
        "trusted": frozenset(record.get("trusted", ())),
    },
    Kind.STARTING: lambda record: {"proof": Proof.from_json(record["proof"])},
    Kind.STARTED: lambda record: {"proof": Proof.from_json(record["proof"])},
    Kind.USAGE: lambda record: {"memory": _memory_from(record), "usage": usage_from(record["usage"])},
    Kind.STOP: lambda record: {"stop": Reason(record["reason"])},
    Kind.EXITED: lambda record: {"payload": _end_from(record), "payload_s": record["seconds"]},
    Kind.FINAL: lambda record: {"final": record["fields"]},
}

_ADDS: Mapping[str, Callable[[Past, Record], dict[str, Any]]] = {
    Kind.STORING: _storing,
    Kind.POINT: _point,
    Kind.STORED: lambda past, record: {"stored": (*past.stored, _stored_from(record))},
}
"""The kinds of which a job has several records: each adds to what was known."""
