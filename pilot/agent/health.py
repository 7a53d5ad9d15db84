"""The pod's health before each job: a job that would meet a lost GPU, or one that others fill, is not taken."""

from __future__ import annotations

from collections.abc import Sequence

from pilot.resources.gpu import unhealthy
from pilot.resources.probe import Resources
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.errors import SiteError
from pilot.values.events import events

log = events(__name__)

_AGAIN_S = 5.0


def healthy(pod: Pod, gpus: Sequence[str]) -> Resources:
    """What the pod has, when the ``gpus`` that it had at the start (UUIDs) are free and well; so long it is waited.

    A payload that was killed may hold a GPU's memory for a moment. Raises SiteError, with the reason, after the
    setting ``gpu_wait``; a stop ends the wait too.
    """
    limit = Deadline.after(pod.settings.gpu_wait).sooner(pod.deadline)
    while True:
        resources = pod.probe()
        reason = unhealthy(resources.gpus, gpus, int(pod.settings.gpu_used) << 20)
        if not reason or pod.stop.reason is not None or pod.drain.requested:
            return resources
        if limit.expired():
            raise SiteError(f"no job is taken here: {reason} (waited {pod.settings.gpu_wait:g} s)")
        log.warning("waiting for a GPU", why=reason, seconds=limit.left())
        pod.hear(Deadline.after(_AGAIN_S).sooner(limit), pod.stop, pod.drain)
