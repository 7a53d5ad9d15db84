"""The connections of a point service: iDDS itself or through the server's relay, events, checkpoints, progress."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from pilot import __version__
from pilot.net.transport import Limits, Transport
from pilot.panda.checkpoints import CheckpointClient
from pilot.panda.events import EventClient
from pilot.panda.idds import DirectIdds, Idds, RelayedIdds
from pilot.panda.wire import Wire
from pilot.runner.area import JobArea
from pilot.runner.hpo.book import Book
from pilot.runner.hpo.messages import Steps
from pilot.runner.hpo.service import Asker, Lines, PointService
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.decoding import LOOSE, decode_json
from pilot.values.errors import Garbled, ResourceError, ServerUnavailable
from pilot.values.events import events
from pilot.values.hpo import PointWork
from pilot.values.stop import unless_stopped

log = events(__name__)

_QUICK = Limits(connect_s=5, idle_s=10, total_s=20)
_OK = 200


@contextmanager
def point_service(
    job_id: int, asked: PointWork, book: Book, pod: Pod, area: JobArea, threads: int
) -> Iterator[PointService]:
    """A service that runs during the block."""
    with area.fresh("checkpoints") as folder:
        checkpoints = folder.path
    asker = Asker(job_id, asked, checkpoints, pod.settings.checkpoint_limit << 20)

    def silent() -> bool:
        return pod.reporter.silent_s > pod.settings.lease

    log.info("points come from", **_where(asked, pod))
    limit = Deadline.after(pod.settings.patience)
    with pod.watchdog.waiting(limit), unless_stopped(pod.stop, ResourceError):
        service = PointService(asker, lambda: _lines(asked, pod), book, silent, threads, limit, [pod.stop])
    try:
        yield service
    finally:
        service.shut()


def at_server(asked: PointWork, pod: Pod) -> bool:
    """Whether the job's iDDS is the PanDA server itself, as with `pilot serve`."""
    return asked.idds is None or _origin(asked.idds) == _origin(pod.settings.server)


def _where(asked: PointWork, pod: Pod) -> dict[str, str]:
    base = _direct_base(asked, pod)
    return {"idds": base or "the server's relay"}


def _direct_base(asked: PointWork, pod: Pod) -> str:
    """The base of iDDS to be spoken to, with our credentials; "" where only the server may speak to it (promise P6)."""
    if asked.idds is None or at_server(asked, pod):
        return pod.settings.server
    trusted = {_origin(url) for url in pod.settings.idds_servers}
    return str(asked.idds) if _origin(asked.idds) in trusted else ""


def _lines(asked: PointWork, pod: Pod) -> Lines:
    wire = Wire(_transport(pod.settings.server, pod), pod.settings.server, __version__, pod.credentials, pod.redactor)
    base = _direct_base(asked, pod)
    idds: Idds = RelayedIdds(wire)
    if base:
        idds = DirectIdds(_transport(base, pod), base, pod.credentials, __version__)
    plain = Transport(pod.settings.server, verify=pod.settings.ca or True, proxy=pod.settings.http_proxy)
    return Lines(wire, idds, EventClient(wire), CheckpointClient(wire), lambda *news: _report(plain, asked, *news))


def _transport(base: str, pod: Pod) -> Transport:
    settings = pod.settings
    return Transport(
        base, verify=settings.ca or True, certificate=pod.credentials.certificate, proxy=settings.http_proxy
    )


def _report(transport: Transport, asked: PointWork, point: str, steps: Steps) -> bool:
    """Tell intermediate losses; whether the optimiser would rather have another point. No credential goes along."""
    if asked.progress is None:
        return False
    url = f"{asked.progress.rstrip('/')}/{point}/progress"
    body = json.dumps({"steps": list(steps)}).encode()
    answer = transport.call("POST", url, body=body, headers={"Content-Type": "application/json"}, limits=_QUICK)
    if answer.status != _OK:
        raise ServerUnavailable(f"POST {url}: HTTP {answer.status}")
    try:
        return decode_json(answer.body, LOOSE).get("prune") is True
    except (Garbled, AttributeError):
        return False


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
