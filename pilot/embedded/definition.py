"""From our job, as `pilot submit` sends it, to a PanDA job definition as the live server answers it."""

from __future__ import annotations

import difflib
import json
import shlex
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pilot.embedded.events import Events
from pilot.embedded.sitedata import QUEUE, STORAGE
from pilot.values.names import Checksum, EnvName, Guid, Lfn, Name, Url, env_value

Build = Callable[[int], dict[str, Any]]
"""Makes the definition once the job's id is known."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file that the payload needs, and where it lies, the best place first."""

    name: Lfn
    urls: tuple[Url, ...]
    size: int | None = None
    checksum: Checksum | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """Our job, checked. MiB and seconds; what is None is unlimited."""

    name: str = ""
    command: str = ""
    transformation: str = ""
    job_pars: str = ""
    inputs: tuple[Source, ...] = ()
    sandbox: tuple[Source, ...] = ()
    outputs: tuple[Lfn, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: int = 1
    gpus: int = 0
    memory_mib: int | None = None
    disk_mib: int | None = None
    walltime_s: int | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """A job as it is to be stored: its queue, its definition, and what pilots do not see of it."""

    queue: str
    build: Build
    max_attempt: int = 0
    events: Events | None = None


def parse(raw: object) -> Submission:
    """The job that ``POST /local/jobs`` got; ValueError names the field."""
    body = _object("the body", raw)
    given = dict(_object("definition", body.get("definition", body if "panda" in body else None)))
    queue = queue_name(given.get("queue", body.get("queue")) or QUEUE)
    panda = dict(_object("panda", given["panda"])) if "panda" in given else None
    extras = {key: _popped(key, given, panda) for key in _EXTRAS}
    if panda is None:
        order = _order(given)
        build: Build = lambda job_id: panda_definition(order, job_id)  # noqa: E731 - one of two of a kind
    else:
        build = lambda job_id: {"attemptNr": 0, **panda, "PandaID": job_id}  # noqa: E731
    events = _events(extras["events"])
    return Submission(
        queue, _more(build, extras["secrets"], events), _number("maxAttempt", extras["maxAttempt"], 0) or 0, events
    )


_EXTRAS = ("events", "maxAttempt", "secrets")


def queue_name(value: object) -> str:
    """A queue's name; ValueError for anything else."""
    text = _text("queue", value)
    try:
        Name(text)
    except ValueError as error:
        raise ValueError(f"queue: {error}") from None
    return text


def fields_of_queue(value: object) -> dict[str, Any]:
    """Fields of a queue document; ValueError for anything else."""
    return _object("the body", value)


def _popped(key: str, *places: dict[str, Any] | None) -> Any:
    """A key of our own, wherever it stands; it is taken out there."""
    found = [place.pop(key) for place in places if place and key in place]
    return found[0] if found else None


def _events(value: object) -> Events | None:
    if value is None:
        return None
    given = _object("events", value)
    _known("events.", given, ("count", "per_range", "attempts"))
    count, per_range, attempts = (
        _number(f"events.{key}", given.get(key), 1) for key in ("count", "per_range", "attempts")
    )
    if count is None or count > _MOST_EVENTS:
        raise ValueError(f"events.count: needed, at most {_MOST_EVENTS}")
    return Events(count, per_range or 1, attempts or 3)


_MOST_EVENTS = 1_000_000


def _more(build: Build, secrets: object, events: Events | None) -> Build:
    """The definition with what is delivered of our own keys: secrets, and the marks of an event service job."""
    delivered = {"secrets": json.dumps(_object("secrets", secrets))} if secrets is not None else {}

    def whole(job_id: int) -> dict[str, Any]:
        made = {**build(job_id), **delivered}
        if events:
            numbered = {key: job_id for key in ("taskID", "jobsetID") if not isinstance(made.get(key), int)}
            made = {**made, "eventService": "True", **numbered}
        return made

    return whole


def panda_definition(order: Order, job_id: int) -> dict[str, Any]:
    """The PanDA definition of our job: its own scope keeps equal names of two jobs apart in the store."""
    scope = f"local.{job_id}"
    log = f"job.{job_id}.log.tgz"
    files = [*order.inputs, *order.sandbox]
    out = [*order.outputs, log]
    return {
        **_about(order, job_id),
        "inFiles": ",".join(one.name for one in files),
        "GUID": ",".join(_guid() for _ in files),
        "fsize": ",".join("NULL" if one.size is None else str(one.size) for one in files),
        "checksum": ",".join(_short(one.checksum) for one in files),
        "scopeIn": ",".join(scope for _ in files),
        "realDatasetsIn": ",".join(f"{scope}:in" for _ in files),
        "prodDBlocks": ",".join(f"{scope}:in" for _ in files),
        "prodDBlockToken": ",".join("NULL" for _ in files),
        "ddmEndPointIn": ",".join("" for _ in files),
        "dispatchDblock": "NULL",
        "dispatchDBlockToken": "NULL",
        "dispatchDBlockTokenForOut": ",".join("NULL" for _ in out),
        "outFiles": ",".join(out),
        "scopeOut": ",".join(scope for _ in order.outputs),
        "realDatasets": ",".join(f"{scope}:out" for _ in out),
        "destinationDblock": ",".join(f"{scope}:out" for _ in out),
        "destinationDBlockToken": ",".join("NULL" for _ in out),
        "fileDestinationSE": ",".join(QUEUE for _ in out),
        "ddmEndPointOut": ",".join(STORAGE for _ in out),
        "logFile": log,
        "logGUID": _guid(),
        "scopeLog": scope,
        "environment": dict(order.environment),
        "inputUrls": {one.name: one.urls[0] if len(one.urls) == 1 else list(one.urls) for one in files},
        "sandbox": [one.name for one in order.sandbox],
        "gpus": order.gpus,
        **({"command": order.command} if order.command else {}),
    }


def _about(order: Order, job_id: int) -> dict[str, Any]:
    """What does not concern files."""
    return {
        "PandaID": job_id,
        "attemptNr": 1,
        "prodSourceLabel": "user",
        "swRelease": "NULL",
        "homepackage": "NULL",
        "transformation": order.transformation or "/bin/sh",
        "jobPars": f"-c {shlex.quote(order.command)}" if order.command else order.job_pars,
        "jobName": order.name or f"job.{job_id}",
        "jobDefinitionID": job_id,
        "cloud": "LOCAL",
        "destinationSE": "NULL",
        "prodUserID": "local",
        "maxCpuCount": (order.walltime_s or 0) * order.cores,
        "minRamCount": order.memory_mib or 0,
        "maxDiskCount": order.disk_mib or 0,
        "maxWalltime": "NULL" if order.walltime_s is None else order.walltime_s,
        "cmtConfig": "NULL",
        "processingType": "local",
        "transferType": "NULL",
        "sourceSite": "NULL",
        "currentPriority": 1000,
        "taskID": "NULL",
        "coreCount": order.cores,
        "jobsetID": "NULL",
        "reqID": "NULL",
        "nucleus": "NULL",
        "resource_type": "SCORE" if order.cores == 1 else "MCORE",
        "ioIntensity": None,
        "ioIntensityUnit": None,
    }


def _guid() -> str:
    return Guid(str(uuid.uuid4()))


def _short(checksum: Checksum | None) -> str:
    return "NULL" if checksum is None else f"{checksum.kind[:2]}:{checksum.value}"


_KEYS = (
    *("name", "command", "transformation", "jobPars", "job_pars", "inputs", "sandbox", "outputs", "environment"),
    *("cores", "memory_mib", "disk_mib", "walltime_s", "gpus", "queue"),
)
_FILE_KEYS = ("name", "url", "size", "checksum")
_MOST = 2**31


def _order(given: Mapping[str, Any]) -> Order:
    _known("", given, _KEYS)
    order = Order(
        name=_text("name", given.get("name") or ""),
        command=_text("command", given.get("command") or ""),
        transformation=_text("transformation", given.get("transformation") or ""),
        job_pars=_text("jobPars", given.get("jobPars") or given.get("job_pars") or ""),
        inputs=_sources("inputs", given.get("inputs")),
        sandbox=_sources("sandbox", given.get("sandbox")),
        outputs=tuple(_lfn(f"outputs[{at}]", one) for at, one in enumerate(_list("outputs", given.get("outputs")))),
        environment=_environment(given.get("environment")),
        cores=_number("cores", given.get("cores"), 1) or 1,
        gpus=_number("gpus", given.get("gpus"), 0) or 0,
        memory_mib=_number("memory_mib", given.get("memory_mib"), 1),
        disk_mib=_number("disk_mib", given.get("disk_mib"), 1),
        walltime_s=_number("walltime_s", given.get("walltime_s"), 1),
    )
    _whole(order)
    return order


def _whole(order: Order) -> None:
    """What no field can say alone."""
    if bool(order.command) == bool(order.transformation):
        raise ValueError("command: give either command, or transformation with jobPars")
    seen: set[str] = set()
    for what, names in (
        ("inputs", [one.name for one in order.inputs]),
        ("sandbox", [one.name for one in order.sandbox]),
        ("outputs", order.outputs),
    ):
        for name in names:
            if name in seen:
                raise ValueError(f"{what}: {name!r} is named twice")
            seen.add(name)


def _known(where: str, given: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    for key in given:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            hint = f", did you mean {near[0]}?" if near else f" (known: {', '.join(keys)})"
            raise ValueError(f"{where}{key[:60]}: unknown{hint}")


def _object(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: must be an object")  # noqa: TRY004 - one kind of error for bad input
    return value


def _list(name: str, value: object) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{name}: must be a list")
    return value or []


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{name}: must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: is not Unicode text") from None
    return value


def _number(name: str, value: object, least: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < _MOST:
        raise ValueError(f"{name}: {json.dumps(value)[:60]} is not a whole number from {least} on")
    return value


def _lfn(name: str, value: object) -> Lfn:
    try:
        return Lfn(_text(name, value))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _environment(value: object) -> dict[str, str]:
    pairs = _object("environment", value or {})
    try:
        return {EnvName(key): env_value(_text(f"environment.{key[:60]}", text)) for key, text in pairs.items()}
    except ValueError as error:
        raise ValueError(f"environment: {error}") from None


def _sources(what: str, value: object) -> tuple[Source, ...]:
    return tuple(_source(f"{what}[{at}]", _object(f"{what}[{at}]", one)) for at, one in enumerate(_list(what, value)))


def _source(where: str, given: Mapping[str, Any]) -> Source:
    _known(f"{where}.", given, _FILE_KEYS)
    checksum = given.get("checksum")
    name = _lfn(f"{where}.name", given.get("name"))
    try:
        return Source(
            name,
            _urls(given.get("url")),
            _number("size", given.get("size"), 0),
            Checksum.parse(_text("checksum", checksum)) if checksum else None,
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _urls(value: object) -> tuple[Url, ...]:
    """One URL, or several of the same file; ValueError for none."""
    several = value if isinstance(value, list) else [value]
    if not several:
        raise ValueError("url: an empty list")
    return tuple(Url(_text("url", url)) for url in several)
