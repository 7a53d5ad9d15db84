"""The keeper of checkpoints: they are fetched for whoever gets a point, saved meanwhile, dropped when it has its loss.

None of it may cost a point: a cache that fails costs steps that are computed again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pilot.files.folder import Folder
from pilot.panda.checkpoints import CheckpointClient
from pilot.runner.hpo.snapshot import pack
from pilot.values.deadline import Deadline
from pilot.values.errors import CredentialError, ServerError, ServerRefused
from pilot.values.events import events
from pilot.values.hpo import PointWork

log = events(__name__)

_TRIES = 3
_PAUSE_S = 0.2


class Keeper:
    """The checkpoints of one job. Used by the service's threads, each with a client of its own."""

    def __init__(self, work: PointWork, folder: Path, most_bytes: int, pause: Callable[[float], None]) -> None:
        """Tarballs stand in ``folder`` for a while; ``pause`` waits, and raises at the end."""
        self._work = work
        self._folder = folder
        self._most_bytes = most_bytes
        self._pause = pause

    def fetch(self, client: CheckpointClient, point: str) -> Path | None:
        """What an earlier evaluation of the point has left; None without, or where it cannot be had."""
        work = self._work
        if work.checkpoints is None or work.source is None:
            return None
        target = self._folder / f"{work.task_id}_{point}.checkpoint"
        for _ in range(_TRIES):
            try:
                there = client.get(work.source, work.task_id, point, target, self._most_bytes)
            except (ServerError, CredentialError, OSError) as error:
                log.warning("a checkpoint could not be fetched", point=point, why=str(error))
                if isinstance(error, ServerRefused | CredentialError):
                    return None
                self._pause(_PAUSE_S)
            else:
                return target if there else None
        return None

    def save(
        self,
        client: CheckpointClient,
        point: str,
        work: Callable[[], Folder],
        known: str,
        limit: Deadline,
        is_over: Callable[[], bool],
    ) -> str | None:
        """Save what is in the directory that ``work`` opens; its digest, None where nothing could be saved.

        Nothing is done for a digest that is ``known``. ``is_over`` says whether the point has its loss by now: then
        it needs no checkpoint any more.
        """
        task, archive = self._work.task_id, self._folder / f"{self._work.task_id}_{point}"
        if self._work.checkpoints is None:
            return None
        try:
            digest = pack(work, self._work.checkpoints.save, archive, self._most_bytes, limit)
            if digest not in (None, known) and not is_over():
                client.put(task, point, archive)
                log.info("checkpoint saved", point=point, bytes=archive.stat().st_size)
                if is_over():
                    self.drop(client, point)
        except (ServerError, CredentialError, OSError) as error:
            log.warning("a checkpoint could not be saved", point=point, why=str(error))
            return None
        finally:
            archive.unlink(missing_ok=True)
        return digest

    def drop(self, client: CheckpointClient, point: str) -> None:
        """Nobody needs it any more; one that stays costs the cache some space."""
        if self._work.checkpoints is None:
            return
        try:
            client.delete(self._work.task_id, point)
        except (ServerError, CredentialError) as error:
            log.warning("a checkpoint could not be removed", point=point, why=str(error))
