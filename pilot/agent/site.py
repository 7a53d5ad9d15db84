"""Finds queue and storage data: from files (a ConfigMap needs no URL at all) or URLs, cached on the scratch volume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pilot.files.opening import read_file, replace_file
from pilot.panda.messages import Broken, Documents
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.decoding import DOCUMENT, decode_json
from pilot.values.errors import Garbled, SiteError
from pilot.values.events import events
from pilot.values.settings import Settings
from pilot.values.site import Site, parse_queue, readable_storages

log = events(__name__)


def find_site(pod: Pod) -> Site | None:
    """Queue and storage data; None when a stop came first.

    Where a server does not answer in the idle time, what an earlier life on this volume has fetched is used.
    Raises SiteError, also for a queue that is not online or needs a /cvmfs that is not there.
    """
    remote = _remote(pod.settings)
    fetched = _fetch(remote, pod) if any(remote) else Documents(None, None)
    if fetched is None:
        return None
    site = _site(fetched, pod.settings)
    if any(remote):
        _keep(_cache(pod), fetched)
    if not site.queue.online:
        raise SiteError(f"queue {site.queue.name} is not online")
    if site.queue.needs_cvmfs and not Path("/cvmfs").is_dir():
        raise SiteError(f"queue {site.queue.name} needs /cvmfs, and there is none here")
    return site


def site_now(pod: Pod) -> Site:
    """Queue and storage data for a job of an earlier life; without storages where they cannot be had now.

    Never what was kept on the volume: a payload can write there, and who is in these data gets our credentials.
    Whether the queue is online does not matter to a job that is there.
    """
    try:
        return _site(_current(_remote(pod.settings), pod), pod.settings)
    except SiteError as error:
        log.error("no queue and storage data for the job of an earlier life", why=str(error))
        return Site(pod.site.queue, {})


def _site(fetched: Documents, settings: Settings) -> Site:
    """What is told by the documents that were fetched, and by files. Raises SiteError."""
    queue_at, storages_at = _addresses(settings)
    queue = parse_queue(settings.queue, fetched.queue if _is_url(queue_at) else _read_json(queue_at))
    storages, unreadable = readable_storages(fetched.storages if _is_url(storages_at) else _read_json(storages_at))
    if unreadable:
        log.warning("storages are left out: their data cannot be read", count=len(unreadable), first=unreadable[0])
    return Site(queue, storages)


def _remote(settings: Settings) -> list[str]:
    """What is to be fetched: the URLs of queue and storage data, "" for those in files."""
    return [at if _is_url(at) else "" for at in _addresses(settings)]


def _addresses(settings: Settings) -> tuple[str, str]:
    """Where queue and storage data are: URLs, or paths of files."""
    base = settings.server.rstrip("/")
    queue_at = settings.queuedata or f"{base}/cache/schedconfig/{settings.queue}.all.json"
    return queue_at.replace("{pandaqueue}", settings.queue), settings.storagedata or f"{base}/cache/ddmendpoints.json"


def _is_url(text: str) -> bool:
    return "://" in text


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


def _fetch(urls: list[str], pod: Pod) -> Documents | None:
    """What the URLs hold, or else what was kept of them; None when a stop came first."""
    pod.reporter.fetch(*urls)
    message = pod.hear(Deadline.after(pod.settings.idle).sooner(pod.deadline), pod.stop)
    if pod.stop.reason is not None:
        return None
    if isinstance(message, Documents):
        return message
    none = f"none within {pod.settings.idle:g} s: {pod.reporter.unanswered}"
    why = message.error if isinstance(message, Broken) else none
    try:
        kept = decode_json(read_file(str(_cache(pod)), most_bytes=DOCUMENT.most_bytes), DOCUMENT)
        log.warning("no queue and storage data; using those of an earlier life", why=str(why))
        return Documents(kept["queue"], kept["storages"])
    except (OSError, Garbled, KeyError, TypeError):
        raise SiteError(f"no queue and storage data: {why}") from None


def _cache(pod: Pod) -> Path:
    return pod.work / f"site-{pod.settings.queue}.json"


def _keep(cache: Path, documents: Documents) -> None:
    """For a next life on this volume, as they were good enough for this one; nothing depends on it."""
    try:
        text = json.dumps({"queue": documents.queue, "storages": documents.storages})
        replace_file(str(cache), text.encode())
    except OSError as error:
        log.debug("site data are not kept", why=error.strerror)


def _read_json(path: str) -> Any:
    """A file of the site's, which may be a link, as a ConfigMap's are."""
    try:
        with Path(path).open("rb") as file:
            return decode_json(file.read(DOCUMENT.most_bytes + 1), DOCUMENT)
    except (OSError, Garbled) as error:
        raise SiteError(f"{path}: {error}") from None
