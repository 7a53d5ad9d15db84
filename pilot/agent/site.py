"""Finds queue and storage data: from files (a ConfigMap needs no URL at all) or URLs, cached on the scratch volume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pilot.panda.messages import Broken, Documents
from pilot.panda.reporter import Reporter
from pilot.values.deadline import Deadline
from pilot.values.errors import SiteError
from pilot.values.events import events
from pilot.values.settings import Settings
from pilot.values.site import Site, parse_queue, parse_storages
from pilot.values.stop import Stop

log = events(__name__)


def find_site(settings: Settings, work: Path, reporter: Reporter, stop: Stop, deadline: Deadline) -> Site | None:
    """Queue and storage data; None when a stop came first.

    Where a server does not answer in the idle time, what an earlier life on this volume has fetched is used.
    Raises SiteError, also for a queue that is not online or needs a /cvmfs that is not there.
    """
    base = settings.server.rstrip("/")
    queue_at = settings.queuedata or f"{base}/cache/schedconfig/{settings.queue}.all.json"
    queue_at = queue_at.replace("{pandaqueue}", settings.queue)
    storages_at = settings.storagedata or f"{base}/cache/ddmendpoints.json"
    remote = [url if "://" in url else "" for url in (queue_at, storages_at)]
    cache = work / f"site-{settings.queue}.json"
    fetched = _fetch(remote, settings, cache, reporter, stop, deadline) if any(remote) else Documents(None, None)
    if fetched is None:
        return None
    queue = parse_queue(settings.queue, fetched.queue if remote[0] else _read_json(queue_at))
    storages = parse_storages(fetched.storages if remote[1] else _read_json(storages_at))
    if not queue.online:
        raise SiteError(f"queue {queue.name} is not online")
    if queue.needs_cvmfs and not Path("/cvmfs").is_dir():
        raise SiteError(f"queue {queue.name} needs /cvmfs, and there is none here")
    return Site(queue, storages)


def _fetch(
    urls: list[str], settings: Settings, cache: Path, reporter: Reporter, stop: Stop, deadline: Deadline
) -> Documents | None:
    reporter.fetch(*urls)
    message = reporter.mailbox.get(Deadline.after(settings.idle).sooner(deadline), stop)
    if stop.reason is not None:
        return None
    if isinstance(message, Documents):
        _keep(cache, message)
        return message
    why = message.error if isinstance(message, Broken) else f"none within {settings.idle:g} s: {reporter.unanswered}"
    try:
        kept = json.loads(cache.read_text(encoding="utf-8"))
        log.warning("no queue and storage data; using those of an earlier life", why=str(why))
        return Documents(kept["queue"], kept["storages"])
    except (OSError, ValueError, KeyError, TypeError):
        raise SiteError(f"no queue and storage data: {why}") from None


def _keep(cache: Path, documents: Documents) -> None:
    """For a next life on this volume; nothing depends on it."""
    part = cache.with_suffix(".part")
    try:
        part.write_text(json.dumps({"queue": documents.queue, "storages": documents.storages}), encoding="utf-8")
        part.replace(cache)
    except OSError as error:
        log.debug("site data are not kept", why=error.strerror)


def _read_json(path: str) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SiteError(f"{path}: {error}") from None
