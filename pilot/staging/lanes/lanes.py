"""Lanes: moves files in processes of their own, several at once, and holds the limits.

A process (`pilot.staging.worker`) can be stuck in a library for as long as it likes: what counts is what is
seen from here, and SIGKILL is the answer to a limit or a stop. Then the partial target is removed here.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, Self

from pilot.staging.lanes.attempt import Attempt
from pilot.staging.lanes.batch import Batch, Outcome, ask
from pilot.staging.lanes.diskroom import DiskRoom
from pilot.staging.lanes.fleet import Fleet
from pilot.staging.lanes.lane import LaneSettings
from pilot.staging.lanes.obedience import Mercy, Obedience
from pilot.staging.lanes.standing import Standing
from pilot.staging.lanes.task import Step, Task
from pilot.staging.lanes.wallet import Identity, Wallet
from pilot.staging.order import Entry
from pilot.staging.transfer import Hop, Moved, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import StageError
from pilot.values.names import Url
from pilot.values.stop import Stop

__all__ = ["LaneSettings", "Lanes"]

_DELETE_S = 10.0
_HERE = Url("file:///dev/null")


class Lanes:
    """The transfer processes, started when needed. Used by one thread, which lives on."""

    def __init__(self, settings: LaneSettings, wallet: Wallet | None = None) -> None:
        """Without ``wallet`` no storage is sent a credential."""
        self._settings = settings
        self._wallet = wallet or Wallet((), Path(tempfile.gettempdir()))
        self._fleet = Fleet(settings)
        self._standing = Standing()
        self._ident = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def trust(self, origins: Iterable[str]) -> None:
        """The site's own storages, as ``host[:port]``: they may be sent the credentials that are for all of them."""
        self._wallet.trust(origins)

    def pids(self) -> set[int]:
        """All processes that are ours to collect."""
        return self._fleet.pids

    def warm(self, urls: Iterable[Url] = ()) -> None:
        """Start a process ahead of need and let it import what ``urls`` want; waits for nothing."""
        urls = list(urls)
        with contextlib.suppress(OSError, StageError):  # `move` will meet it again, and tell
            lane = self._fleet.lane_for(self._looking(urls[0] if urls else _HERE, "warm"))
            if lane is not None:
                lane.send({"op": "warm", "schemes": sorted({url.scheme for url in urls})})

    def move(
        self,
        transfer: Transfer,
        deadline: Deadline,
        stop: Stop,
        progress: Callable[[int], None] = lambda _: None,
        mercy: Mercy | None = None,
    ) -> Moved:
        """Move one file and verify it; ``progress`` gets the bytes of the present try.

        A stop ends it, at once or when the time that ``mercy`` leaves is over (or will not do, at the pace so
        far). Raises a StageError of the transfer's direction, or Stopped. Nothing partial is left behind.
        """
        tell = lambda _transfer, count: progress(count)  # noqa: E731 - too small for a name of its own
        with contextlib.closing(self.move_all([transfer], deadline, stop, tell, mercy)) as ends:
            _, end = next(ends)
        if isinstance(end, StageError):
            raise end
        return end

    def move_all(
        self,
        transfers: Iterable[Transfer],
        deadline: Deadline,
        stop: Stop,
        progress: Callable[[Transfer, int], None] = lambda _transfer, _count: None,
        mercy: Mercy | None = None,
        disk: DiskRoom | None = None,
    ) -> Generator[tuple[Transfer, Outcome], None, None]:
        """Move files, several at once; each is told of when it has ended, well or badly.

        Raises Stopped as `move` does, and NoSpace where files that come here take more than
        ``disk`` has. Then, and when the iterator is closed early, nothing partial is left.
        """
        total_s, patience_s = self._settings.limits.total_s, self._settings.patience_s
        tasks = [Task(transfer, self._standing, deadline, total_s, patience_s) for transfer in transfers]
        return Batch(tasks, self._fleet, self._order, self._wallet.stamp, Obedience(stop, mercy), progress, disk).run()

    def find(self, url: Url, deadline: Deadline) -> list[Entry]:
        """All files below a directory; or the one file that is none, whose path is "". Raises a StageError."""
        found = ask(self._fleet, self._looking(url, "find"), deadline)
        return [Entry(**entry) for entry in found]

    def retire(self) -> None:
        """End the processes, which are idle: their memory is wanted elsewhere. The next `move` starts others."""
        self._fleet.close()

    def close(self) -> None:
        """End the processes, by the end of their input, or else by a signal, and forget the credentials."""
        self._fleet.close()
        self._wallet.close()

    def _order(self, task: Task | None, step: Step) -> Attempt:
        """What a lane is told to do. Raises NoCredential where a credential cannot be had."""
        until = (task.deadline, task.limit) if task is not None else (Deadline.never(), Deadline.never())
        if step.delete:  # has time of its own: often it was a limit that made it necessary
            until = (Deadline.never(), Deadline.after(_DELETE_S))
        transfer, hop = step.transfer, step.hop
        source = self._wallet.identity(hop.source, write=False)
        target = self._wallet.identity(hop.destination, write=True)
        message = self._message(
            "delete" if step.delete else "copy",
            {"source": source, "destination": target},
            source=hop.source,
            destination=hop.destination,
            size=transfer.size,
            checksum=str(transfer.checksum) if transfer.checksum else None,
            link=transfer.link,
            overwrite=step.overwrite,
            ours=step.overwrite and not transfer.overwrite,
            third_party=hop.third_party,
            identity=transfer.identity if hop.source.scheme == "file" else None,
        )
        return Attempt(task, step, message, (source, target), self._settings.limits, until)

    def _looking(self, url: Url, op: str) -> Attempt:
        """An order that moves nothing."""
        identity = self._wallet.identity(url, write=False)
        step = Step(Transfer(str(url), "in", ()), Hop(url, _HERE))
        message = self._message(op, {"source": identity}, source=url)
        never = Deadline.never()
        return Attempt(None, step, message, (identity, Identity()), self._settings.limits, (never, never))

    def _message(self, op: str, identities: dict[str, Identity], **more: Any) -> dict[str, Any]:
        self._ident += 1
        credential = {
            which: {"token_file": one.token_file, "certificate": one.certificate} for which, one in identities.items()
        }
        return {"id": self._ident, "op": op, "credential": credential, **more}
