"""Server: the embedded server's application in this process, its limits of silence, and another pilot beside ours."""

from __future__ import annotations

import json
import math
import sys
import zlib
from collections import Counter
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode, urlsplit

from pilot.embedded import sitedata
from pilot.embedded.adder import Limits
from pilot.embedded.app import application
from pilot.embedded.jobs import Record
from pilot.embedded.server import EmbeddedServer
from pilot.net.transport import Answer
from pilot.panda.decode import decode_job
from pilot.runner.lease import OURS
from pilot.staging.planning.plan import Trust, make_plan
from pilot.values.site import Site, parse_queue, parse_storages
from tests import history
from tests.fault.schedules.injected import Turns
from tests.fault.schedules.script import Script

BASE = "http://127.0.0.1:25080"
QUEUE = sitedata.queue_data(sitedata.QUEUE, 0)
STORAGES = sitedata.storage_data(f"{BASE}/")
SITE = Site(parse_queue(sitedata.QUEUE, QUEUE), parse_storages(STORAGES))


class Server:
    """The server of a schedule: it keeps the time of the schedule's clock, and may be out of reach."""

    def __init__(self, data: Path, script: Script, seed: int, clock: Turns, met: Counter[str]) -> None:
        self.data = data
        self.given_away: set[int] = set()
        self._script, self._seed, self._clock, self._met = script, seed, clock, met
        self._away_until = -math.inf
        self._embedded = EmbeddedServer(data)
        self._embedded._open()
        self._parts = self._embedded._opened
        self._application = application(self._parts)
        self._parts.faults.set(script.rules)
        self._last: dict[int, tuple[str, float | None, float]] = {}  # state, heard, and when on our clock

    def close(self) -> None:
        self._embedded.stop()

    def away(self, seconds: float) -> None:
        """From now on it cannot be reached for so long."""
        self._away_until = self._clock.monotonic() + seconds

    def is_away(self) -> bool:
        return self._clock.monotonic() < self._away_until

    def calm(self) -> None:
        """From now on the server is there, and makes no faults."""
        self._parts.faults.set([])
        self._away_until = -math.inf

    # --- requests

    def http(
        self, method: str, url: str, body: bytes | None = None, query: Mapping[str, Any] | None = None
    ) -> Answer | None:
        """One request to the application; None if its answer is lost."""
        content = body or b""
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": url.removeprefix(BASE),
            "QUERY_STRING": urlencode(query or {}),
            "CONTENT_TYPE": "application/json" if body else "",
            "CONTENT_LENGTH": str(len(content)),
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "25080",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(content),
            "wsgi.errors": sys.stderr,
            "HTTP_ACCEPT": "application/json",  # the pilot's own: without it the server answers in another format
        }
        status: list[int] = []
        pieces = self._application(environ, lambda line, _headers: status.append(int(line[:3])))
        text = b"".join(pieces)
        self._note()
        return None if environ.get("pilot.drop") else Answer(status[0], text)

    def post(self, path: str, value: Mapping[str, Any]) -> Any:
        answer = self.http("POST", path, json.dumps(value).encode())
        return None if answer is None else history.decoded(answer.body.decode())

    # --- files

    def path(self, url: str) -> Path:
        """The file behind a URL of the store, or of our own disk."""
        parts = urlsplit(url)
        return Path(unquote(parts.path)) if parts.scheme == "file" else self.data / unquote(parts.path).lstrip("/")

    def put(self, url: str, content: bytes) -> None:
        """Store a file: on our own disk, or with the server, which keeps that in mind."""
        if url.startswith("file:"):
            self.path(url).write_bytes(content)
        else:
            answer = self.http("PUT", url, content)
            assert answer is not None
            assert answer.status in (201, 204), answer

    def content(self, name: str) -> str:
        """What the payload writes into an output."""
        return f"{self._seed} {name}"

    # --- jobs

    def record(self, job: int) -> Record | None:
        """What the server knows of a job."""
        return self._parts.table.load(job)

    @property
    def waiting(self) -> bool:
        """Whether there is a job to be taken."""
        return bool(self._parts.table.all("activated"))

    def _note(self) -> None:
        """When, on our clock, the server heard of each job; and its verdicts, if it is prompt."""
        for record in self._parts.table.all():
            heard = max(record.acquired or 0.0, record.heard or 0.0)
            if self._last.get(record.id, ("", None, 0.0))[:2] != (record.status, heard):
                self._last[record.id] = (record.status, heard, self._clock.monotonic())
            if record.status == "holding" and self._script.prompt:
                self._parts.adder.judge_now(record.id)

    def patrol(self) -> None:
        """End the jobs of which nothing was heard for too long; one that was down does not count its own silence."""
        up_since = -math.inf if self._script.watching else self._away_until
        for job, (status, _, since) in tuple(self._last.items()):
            limit = Limits().of(status)
            if limit and status != "holding" and self._clock.monotonic() - max(since, up_since) > limit[0]:
                self.give_away(job)

    def give_away(self, job: int) -> None:
        """The server ends an attempt, and another pilot may have the next."""
        record = self._parts.table.load(job)
        if record is None or record.status not in OURS:
            return
        self._met["given away"] += 1
        self.given_away.add(job)
        self._parts.table.change(job, lambda one: self._parts.adder._step(one, math.inf))
        self._note()
        retry = self._parts.table.load(job).retry
        if retry and self._script.rival:
            self._rival(retry)

    def _rival(self, job: int) -> None:
        """Another pilot, which meets no faults, takes the job and brings it to its end."""
        faults, self._parts.faults._rules = self._parts.faults._rules, []
        asked = {"site_name": "LOCAL", "prod_source_label": "managed", "node": "rival", "computing_element": "LOCAL"}
        given = self.post("/api/v1/pilot/acquire_jobs", {**asked, "n_jobs": 1})["data"]["jobs"][0]
        assert given["PandaID"] == job
        said = {"job_id": job, "attempt_nr": given["attemptNr"], "node": "rival"}
        self.post("/api/v1/pilot/update_job", {**said, "job_status": "running"})
        end = {"job_status": "failed", "pilot_error_code": 1305, "trans_exit_code": 1}
        if self._script.good:
            report = self._stored_by_rival(given)
            end = {"job_status": "finished", "trans_exit_code": 0, "job_output_report": json.dumps(report)}
        self.post("/api/v1/pilot/update_job", {**said, **end})
        self._parts.faults._rules = faults

    def _stored_by_rival(self, given: Mapping[str, Any]) -> dict[str, Any]:
        plan = make_plan(decode_job(given), SITE, self.data, Trust())
        report = {}
        for name, (way, *_) in plan.destinations.items():
            url = way.url
            content = self.content(name).encode()
            self.put(url, content)
            report[name] = {"guid": "g", "fsize": len(content), "adler32": f"{zlib.adler32(content):08x}", "surl": url}
        return report

    def expire(self, but: Collection[int] = ()) -> None:
        """Nobody will be heard of these jobs again: the server's limits of silence end them."""
        for record in self._parts.table.all():
            if record.active and record.status != "activated" and record.id not in but:
                self._parts.table.change(record.id, lambda one: self._parts.adder._step(one, math.inf))
