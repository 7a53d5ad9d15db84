"""Room on a full disk for the last files of a job: what nobody wants any more goes, and at last a reserve."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress

from pilot.runner.area import RESERVE, JobArea
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.events import events

log = events(__name__)

_SLACK_BYTES = 8 << 20
_FULL_BYTES = 1 << 20
_CLEAR_S = 120.0


def make_room(area: JobArea, keep: Collection[str], need_bytes: int, pod: Pod) -> None:
    """Remove what the payload has left, but for ``keep`` (paths below its work directory), if the disk needs it."""
    room = os.fstatvfs(area.own.fd)
    enough = room.f_bavail * room.f_frsize > need_bytes + _SLACK_BYTES
    if enough and (room.f_favail or not room.f_files):
        return
    log.warning("the disk is nearly full: what the payload has left is removed", free=room.f_bavail * room.f_frsize)
    limit = pod.share("save", _CLEAR_S).sooner(Deadline.after(_CLEAR_S))
    with pod.watchdog.waiting(limit):
        kept = {path.split("/")[0] for path in keep}
        with os.scandir(area.work_folder.fd) as listed:
            names = [entry.name for entry in listed if entry.name not in kept]
        left = [area.work_folder.remove(name, limit) for name in names]
        with os.scandir(area.root_folder.fd) as listed:
            names = [entry.name for entry in listed if entry.name != area.work.name]
        left += [area.root_folder.remove(name, limit) for name in names]
    if any(left):
        log.warning("left behind", why="; ".join(filter(None, left))[:500])


def free_reserve(area: JobArea) -> None:
    """Give up what is kept for the log of a job."""
    with suppress(OSError):
        os.unlink(RESERVE, dir_fd=area.own.fd)
        log.warning("the disk is full: the log's reserve is used")


def full(area: JobArea) -> str:
    """How full the disk is, if it takes no more; else ""."""
    room = os.fstatvfs(area.own.fd)
    free, total = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    if free < _FULL_BYTES:
        return f"the disk is full: {free} of {total} bytes are free"
    if room.f_files and not room.f_favail:
        return f"the disk is full: no inode is free, of {room.f_files}"
    return ""
