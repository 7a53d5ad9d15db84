"""Past: what the journal tells of the job that an earlier life has left open.

A payload can write to the volume. So a record's facts are taken by their types, and what they cannot be is damage,
which fails the job. What is well-formed may still be a lie: `recovery.py` looks before it acts on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pilot.panda.fields import FIELDS
from pilot.payload.proven import Proof
from pilot.runner import facts
from pilot.runner.area import JobArea
from pilot.runner.hpo.book import NO_ENTRIES, Entries, folded
from pilot.runner.journal import Journal, Kind, sealed
from pilot.runner.records import Record
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

_MOST = 1 << 63  # what no column of a server holds would be refused again and again, and never be a final

_IDENTITY = ("site_name", "node", "scheduler_id", "pilot_id", "batch_id")
_FINAL_FIELDS = frozenset(FIELDS) - {"job_id", "attempt_nr", *_IDENTITY}


@dataclass(frozen=True, slots=True)
class Past:
    """A job that was taken and has no end yet. What is None did not happen, as far as was recorded.

    ``seal`` is what the record of its exit status must be sealed with, "" in journals of before there were any;
    ``damage`` says what cannot be understood of the journal.
    """

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
    storing: frozenset[Lfn] = frozenset()
    stored: tuple[StoredFile, ...] = ()
    memory: Memory | None = None
    usage: Usage | None = None
    stop: Reason | None = None
    final: Mapping[str, Any] | None = None
    seal: str = ""
    damage: str = ""

    def is_of(self, job_id: int, attempt: int | None) -> bool:
        """Whether it is this attempt."""
        return (self.job_id, self.attempt) == (job_id, attempt)


@dataclass(frozen=True, slots=True)
class Story:
    """What the journal tells: the job that is open, when a question for one was left open, and the last life.

    ``ended`` is a job whose end the server has, it says, though the life that said so did not leave in order: a
    payload that ends its pilot could have written that. ``place`` is the last life's pod; see `journal.place`.
    """

    open: Past | None = None
    ended: Past | None = None
    asked_at: float | None = None
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    life: str = ""
    place: str = ""
    left: bool = False


def tell(records: tuple[Record, ...]) -> Story:
    """Fold the records. What a newer version has added is passed over."""
    story, damage = Story(), ""
    own = True  # whether the life that speaks is the one that has taken the job
    for record in records:
        kind = str(record.get("kind"))
        own = kind == Kind.TAKEN or (own and kind != Kind.LIFE)
        if kind == Kind.STOP and not own:
            continue
        try:
            story = _next(story, kind, record)
        except ValueError as error:
            damage = damage or f"{kind}: {error}"
        if kind == Kind.DAMAGED:
            damage = damage or str(record.get("what"))[:200]
    return replace(story, open=_marked(story.open, damage), ended=_marked(story.ended, damage))


def story_of(journal: Journal) -> Story:
    """What a journal tells, and if that is nothing of a job, what a directory on its volume does.

    A payload can end its pilot and take the records away. Of a job that has ended in order no directory is left, or
    the server says so.
    """
    story = tell(journal.past)
    if story.open is not None or story.ended is not None:
        return story
    area = JobArea.left_behind(journal.folder)
    if area is None:
        return story
    _, job_id, attempt, _ = area.root.name.split("-")
    return replace(story, ended=Past(
        int(job_id), int(attempt), MappingProxyType({}), datetime.now(UTC), area=area, damage="it knows nothing of it"
    ))  # fmt: skip


def _next(story: Story, kind: str, record: Record) -> Story:
    """The story with one more record. Raises ValueError for one that cannot be part of it."""
    if kind in _STORY:
        return _STORY[kind](story, record)
    if kind not in _JOB:
        return story
    job_id, attempt = facts.whole_or_none(record, "job"), facts.whole_or_none(record, "attempt")
    if job_id is not None and story.ended is not None and story.ended.is_of(job_id, attempt):
        return story
    past = story.open
    if past is None:
        if job_id is None:
            return story
        past = Past(job_id, attempt, MappingProxyType({}), _time(record))  # the record of its coming is lost
    elif job_id is not None and not past.is_of(job_id, attempt):
        raise ValueError(f"it is of job {job_id}, and job {past.job_id} is open")
    return replace(story, open=replace(past, **_JOB[kind](past, record)))


def _marked(past: Past | None, damage: str) -> Past | None:
    return replace(past, damage=past.damage or damage) if past is not None else None


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
    metrics = facts.texts(value, "metrics") if value.get("metrics") is not None else None
    save = facts.texts(value, "checkpoints") if value.get("checkpoints") is not None else None
    output = Lfn(facts.text(value, "output_file"))
    if metrics is not None and len(metrics) != 2:
        raise ValueError("metrics: not two names")
    return PointWork(
        task_id=facts.whole(value, "task_id"),
        command="",
        point_file=output,
        output_file=output,
        meta_file=output,
        metrics=(Lfn(metrics[0]), Lfn(metrics[1])) if metrics else None,
        idds=facts.text_or_none(value, "idds"),
        segment=facts.whole_or_none(value, "segment"),
        checkpoints=Checkpoints(tuple(save)) if save else None,
    )


def _declared(file: OutputFile) -> dict[str, Any]:
    return {"lfn": file.lfn, "guid": file.guid, "may_be_missing": file.may_be_missing}


def _output(value: Mapping[str, Any]) -> OutputFile:
    guid = facts.text_or_none(value, "guid")
    may_be_missing = facts.switch(value, "may_be_missing")
    return OutputFile(Lfn(facts.text(value, "lfn")), guid=Guid(guid) if guid else None, may_be_missing=may_be_missing)


def _taken(story: Story, record: Record) -> Story:
    """A job came. One that is open already has come only once, whatever else is written."""
    job_id, attempt = facts.whole(record, "job", 1), facts.whole_or_none(record, "attempt")
    if story.open is not None and not story.open.is_of(job_id, attempt):
        raise ValueError(f"job {job_id} came while job {story.open.job_id} was open")
    if story.open is not None and story.open.job is not None:
        return story
    past = Past(job_id, attempt, MappingProxyType({}), _time(record))
    try:  # whose job it is counts, whatever else is wrong with it
        past = replace(past, identity=_identity(record), seal=facts.text(record, "seal", ""))
        if "area" in record:  # else it was refused: nothing of it was begun
            past = replace(past, job=_job(record), area=JobArea(Path(facts.text(record, "area"))))
    except ValueError as error:
        past = replace(past, damage=f"{Kind.TAKEN}: {error}")
    return replace(story, open=past, ended=None, asked_at=None)


def _identity(record: Record) -> Mapping[str, Any]:
    """The fields that each update carries, and no others: those of the job itself are not its to change."""
    value = facts.mapping(record, "identity")
    return {name: facts.text(value, name) for name in _IDENTITY if value.get(name) is not None}


def _job(record: Record) -> Job:
    log = facts.mapping(record, "log") if record.get("log") is not None else None
    zips = facts.mapping(record, "zips", {})
    hpo = facts.mapping(record, "hpo") if record.get("hpo") is not None else None
    return Job(
        id=facts.whole(record, "job", 1),
        attempt=facts.whole(record, "attempt"),
        command="",
        inputs=tuple(InputFile(Lfn(lfn)) for lfn in facts.texts(record, "inputs")),
        outputs=tuple(_output(one) for one in facts.mappings(record, "outputs")),
        log=_output(log) if log else None,
        zips={Lfn(archive): tuple(map(Lfn, facts.texts(zips, archive))) for archive in zips},
        cores=facts.whole(record, "cores"),
        hpo=_work(hpo) if hpo else None,
    )


def _time(record: Record) -> datetime:
    return datetime.fromtimestamp(facts.number(record, "time"), UTC)


def destinations_json(destinations: Destinations) -> dict[str, Any]:
    """The ways of each output, for the record `PLANNED`."""
    return {lfn: [[way.url, way.endpoint, way.via] for way in ways] for lfn, ways in destinations.items()}


def trusted(destinations: Destinations, site: Site) -> list[str]:
    """The site's own servers among those that outputs go to: a next life, which knows no site, may log in there."""
    urls = [url for ways in destinations.values() for way in ways for url in (way.url, way.via) if url is not None]
    return sorted({origin(url) for url in urls} & site.origins())


def destinations_from(value: Mapping[str, Any]) -> Destinations:
    """The same, read back. Raises ValueError."""
    return {Lfn(lfn): tuple(_way(one) for one in facts.listed(value, lfn)) for lfn in value}


def _way(value: object) -> Way:
    if not isinstance(value, list) or len(value) != 3:
        raise ValueError("a way is no list of three")
    parts = {"url": value[0], "endpoint": value[1], "via": value[2]}
    endpoint, via = facts.text_or_none(parts, "endpoint"), facts.text_or_none(parts, "via")
    return Way(Url(facts.text(parts, "url")), Endpoint(endpoint) if endpoint else None, Url(via) if via else None)


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
    limit = facts.whole(record, "limit_bytes")
    return Memory(facts.whole(record, "memory_bytes"), limit, facts.whole(record, "oom_kills")) if limit else None


def usage_from(value: Mapping[str, Any]) -> Usage:
    """The last state of the usage, read back. Raises ValueError."""
    gpus = tuple(
        GpuUsage(
            facts.text(one, "uuid"),
            facts.whole(one, "samples"),
            facts.number_or_none(one, "utilisation"),
            facts.whole(one, "max_used_bytes"),
            facts.number_or_none(one, "energy_j"),
        )
        for one in facts.mappings(value, "gpus", [])
    )
    figures: dict[str, type] = {one.name: type(one.default) for one in fields(Usage) if one.name != "gpus"}
    read = {name: kind(facts.number(value, name)) for name, kind in figures.items() if name in value}
    return Usage(**read, gpus=gpus)


def _exited(past: Past, record: Record) -> dict[str, Any]:
    """The exit status, which only the life that ran the payload has seen; see `Journal`."""
    if past.seal and sealed(facts.text(record, "seal", "")) != past.seal:
        raise ValueError("the pilot that ran the payload has not written that")
    end = PayloadEnd(
        facts.whole(record, "exit_code", -255),
        facts.number(record, "cpu_s"),
        facts.whole(record, "max_rss_kib"),
        stopped=facts.switch(record, "stopped"),
    )
    return {"payload": end, "payload_s": facts.number(record, "seconds")}


def _stored(past: Past, record: Record) -> dict[str, Any]:
    endpoint = facts.text_or_none(record, "endpoint")
    file = StoredFile(
        Lfn(facts.text(record, "lfn")),
        Guid(facts.text(record, "guid")),
        facts.whole(record, "size"),
        Checksum.parse(facts.text(record, "checksum")),
        Url(facts.text(record, "url")),
        Endpoint(endpoint) if endpoint else None,
    )
    return {"stored": (*(one for one in past.stored if one.lfn != file.lfn), file)}


def _storing(past: Past, record: Record) -> dict[str, Any]:
    """What an earlier life has begun to store, and where it went on when another file had its place."""
    renamed = destinations_from(facts.mapping(record, "destinations", {}))
    return {
        "storing": past.storing.union(map(Lfn, facts.texts(record, "files"))),
        "destinations": MappingProxyType({**past.destinations, **renamed}),
    }


def _point(past: Past, record: Record) -> dict[str, Any]:
    """One more step of a point; the proof of the evaluation that was started last stands for the payload."""
    proof = {"proof": _proof(record)} if "proof" in record else {}
    return {"points": folded(past.points, record), **proof}


def _proof(record: Record) -> Proof:
    return Proof.from_json(facts.mapping(record, "proof"))


def _final(record: Record) -> Mapping[str, Any]:
    """The final's fields: those that the server knows and that are not the job's identity. Raises ValueError."""
    value = facts.mapping(record, "fields")
    if value.get("job_status") not in ("finished", "failed"):
        raise ValueError("fields: no final state")
    for name, one in value.items():
        if (
            name not in FIELDS
            or name in ("job_id", "attempt_nr", *_IDENTITY)
            or not isinstance(one, str | int | float | None)
        ):
            raise ValueError(f"fields: {ascii(name)[:40]} is no field of a final")
        if FIELDS[name].kind is not str and isinstance(one, str):
            raise ValueError(f"fields: {name} is a text")
        if isinstance(one, int | float) and not abs(one) < _MOST:
            raise ValueError(f"fields: {name} is larger than any that a server takes")
    return value


def _ended(story: Story, record: Record) -> Story:
    """The end is known. The server is asked whether that is so, unless the pilot has gone on or left in order."""
    facts.text(record, "verdict")
    past = story.open
    return replace(story, open=None, ended=past if past is not None else story.ended)


# --- what each kind changes: of the story, and of the job that is open -------------------------------------

_STORY: Mapping[str, Callable[[Story, Record], Story]] = {
    Kind.LIFE: lambda story, record: replace(
        story,
        settings=facts.mapping(record, "settings", {}),
        life=facts.text(record, "life", ""),
        place=facts.text(record, "place", ""),
        left=False,
    ),
    Kind.LEFT: lambda story, _record: replace(story, left=True, ended=None),
    Kind.ASKING: lambda story, record: replace(story, asked_at=record["time"]),
    Kind.NOTHING: lambda story, record: replace(story, asked_at=record["time"] if record.get("lost") else None),
    Kind.TAKEN: _taken,
    Kind.ENDED: _ended,
}

_JOB: Mapping[str, Callable[[Past, Record], dict[str, Any]]] = {
    Kind.PLANNED: lambda _past, record: {"destinations": destinations_from(facts.mapping(record, "destinations"))},
    Kind.STARTING: lambda _past, record: {"proof": _proof(record)},
    Kind.STARTED: lambda _past, record: {"proof": _proof(record)},
    Kind.USAGE: lambda _past, record: {
        "memory": _memory_from(record),
        "usage": usage_from(facts.mapping(record, "usage")),
    },
    Kind.STOP: lambda _past, record: {"stop": Reason(facts.text(record, "reason"))},
    Kind.EXITED: _exited,
    Kind.STORING: _storing,
    Kind.STORED: _stored,
    Kind.POINT: _point,
    Kind.FINAL: lambda _past, record: {"final": _final(record)},
}
"""What each kind adds to what was known of the job."""
