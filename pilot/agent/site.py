"""Finds queue and storage data: from files (a ConfigMap needs no URL at all) or URLs, cached on the scratch volume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pilot.panda.messages import Broken, Documents
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.errors import SiteError
from pilot.values.events import events
from pilot.values.settings import Settings
from pilot.values.site import Site, parse_queue, parse_storages

log = events(__name__)


def find_site(pod: Pod) -> Site | None:
    """Queue and storage data; None when a stop came first.

    Where a server does not answer in the idle time, what an earlier life on this volume has fetched is used.
    Raises SiteError, also for a queue that is not online or needs a /cvmfs that is not there.
    """
    settings = pod.settings
    queue_at, storages_at = _addresses(settings)
    remote = [url if "://" in url else "" for url in (queue_at, storages_at)]
    fetched = _fetch(remote, pod) if any(remote) else Documents(None, None)
    if fetched is None:
        return None
    queue = parse_queue(settings.queue, fetched.queue if remote[0] else _read_json(queue_at))
    storages = parse_storages(fetched.storages if remote[1] else _read_json(storages_at))
    if not queue.online:
        raise SiteError(f"queue {queue.name} is not online")
    if queue.needs_cvmfs and not Path("/cvmfs").is_dir():
        raise SiteError(f"queue {queue.name} needs /cvmfs, and there is none here")
    return Site(queue, storages)


def site_now(pod: Pod) -> Site:
    """Queue and storage data for a job of an earlier life; without storages where they cannot be had now.

    Never what was kept on the volume: a payload can write there, and who is in these data gets our credentials.
    Whether the queue is online does not matter to a job that is there.
    """
    queue_at, storages_at = _addresses(pod.settings)
    try:
        documents = _current([url if "://" in url else "" for url in (queue_at, storages_at)], pod)
        return Site(
            parse_queue(pod.settings.queue, documents.queue if "://" in queue_at else _read_json(queue_at)),
            parse_storages(documents.storages if "://" in storages_at else _read_json(storages_at)),
        )
    except SiteError as error:
        log.error("no queue and storage data for the job of an earlier life", why=str(error))
        return Site(pod.site.queue, {})


def _current(urls: list[str], pod: Pod) -> Documents:
    """What the URLs hold, asked for as long as a job may wait for a server. Raises SiteError."""
    if not any(urls):
        return Documents(None, None)
    pod.reporter.fetch(*urls)
    while True:
        stopped = pod.stop.reason is not None
        limit = pod.share("outputs", pod.settings.patience).sooner(pod.deadline)
        message = pod.hear(limit, *([] if stopped else [pod.stop]))
        if isinstance(message, Documents):
            return message
        if isinstance(message, Broken):
            raise SiteError(str(message.error))
        if message is None and stopped == (pod.stop.reason is not None):
            unanswered = pod.reporter.unanswered
            pod.reporter.withdraw()
            raise SiteError(f"no answer in time: {unanswered}")


def _addresses(settings: Settings) -> tuple[str, str]:
    """Where queue and storage data are: URLs, or paths of files."""
    base = settings.server.rstrip("/")
    queue_at = settings.queuedata or f"{base}/cache/schedconfig/{settings.queue}.all.json"
    return queue_at.replace("{pandaqueue}", settings.queue), settings.storagedata or f"{base}/cache/ddmendpoints.json"


def _fetch(urls: list[str], pod: Pod) -> Documents | None:
    """What the URLs hold, or else what was kept of them; None when a stop came first."""
    cache = pod.work / f"site-{pod.settings.queue}.json"
    pod.reporter.fetch(*urls)
    message = pod.hear(Deadline.after(pod.settings.idle).sooner(pod.deadline), pod.stop)
    if pod.stop.reason is not None:
        return None
    if isinstance(message, Documents):
        _keep(cache, message)
        return message
    none = f"none within {pod.settings.idle:g} s: {pod.reporter.unanswered}"
    why = message.error if isinstance(message, Broken) else none
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
