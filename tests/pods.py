"""A pod without processes: its lanes copy files in this process, by the first route that they can."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pilot.net.credentials import CredentialFiles, Credentials
from pilot.runner.journal import Journal
from pilot.runner.pod import Pod
from pilot.runner.watchdog import Watchdog
from pilot.staging.transfer import Moved, Transfer
from pilot.values.deadline import REAL_CLOCK, Deadline
from pilot.values.errors import Exists, FileMissing, StageError
from pilot.values.events import Redactor
from pilot.values.names import Checksum, Url
from pilot.values.settings import Settings
from pilot.values.site import Queue, Site
from pilot.values.stop import Drain, Stop


class DiskLanes:
    """Every URL is a file below ``root``, named by host and path; those of our own disk are where they are."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[Transfer] = []

    def path(self, url: str) -> Path:
        url = Url(url)
        return Path(url.path) if url.scheme == "file" else self.root / url.partition("://")[2].partition("?")[0]

    def put(self, url: str, content: bytes) -> None:
        self.path(url).parent.mkdir(parents=True, exist_ok=True)
        self.path(url).write_bytes(content)

    def content(self, url: str) -> bytes:
        return self.path(url).read_bytes()

    def move_all(
        self, transfers: Any, _deadline: Any, stop: Stop, progress: Any, _mercy: Any = None, _disk: Any = None
    ) -> Iterator[tuple[Transfer, Moved | StageError]]:
        for transfer in transfers:
            stop.check()
            self.asked.append(transfer)
            try:
                end: Moved | StageError = self._moved(transfer, progress)
            except StageError as error:
                end = error
            yield transfer, end

    def _moved(self, transfer: Transfer, progress: Any) -> Moved:
        route = next((one for one in transfer.routes if self.path(one.source).exists()), None)
        if route is None:
            raise FileMissing(f"{transfer.name}: nowhere", transfer.direction)
        content, there = self.content(route.source), self.path(route.destination)
        for at in range(0, len(content), 1 << 19):
            progress(transfer, min(at + (1 << 19), len(content)))
        if there.exists() and there.read_bytes() != content and not transfer.overwrite:
            raise Exists(f"{transfer.name}: another file is there", transfer.direction)
        self.put(route.destination, content)
        return Moved(transfer, route, len(content), Checksum("adler32", f"{zlib.adler32(content):08x}"))


@contextlib.contextmanager
def a_pod(folder: Path, site: Site | None = None, **settings: Any) -> Iterator[Pod]:
    """A pod for the steps that move files; it knows no server."""
    work = folder / "volume"
    work.mkdir()
    with Stop() as stop, Stop() as hurry, Journal.open(work) as journal:
        yield Pod(
            settings=Settings(**settings),
            site=site or Site(Queue("Q", "Q"), {}),
            work=work,
            journal=journal,
            watchdog=Watchdog(300, 30, work / "pilot.log", arrivals=-1, stop=stop),
            credentials=Credentials(CredentialFiles(), lambda _: None, time.time),
            reporter=None,
            lanes=DiskLanes(folder / "storages"),
            clock=REAL_CLOCK,
            redactor=Redactor(),
            stop=stop,
            hurry=hurry,
            drain=Drain(),
            deadline=Deadline.never(),
            inherited={},
        )
