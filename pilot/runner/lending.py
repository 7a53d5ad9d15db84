"""The payload's credentials: a third kind, beside the pilot's own and the storage's (promise P6).

They lie in files; their paths are all that the payload's environment holds of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pilot.panda.messages import Broken, Granted
from pilot.runner.area import JobArea
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.errors import NoPayloadCredential
from pilot.values.stop import Stop

_ANSWER_S = 120.0


def lend(pod: Pod, area: JobArea, stop: Stop) -> Mapping[str, str]:
    """The variables with the paths. Raises NoPayloadCredential, before a byte of the job is moved."""
    settings = pod.settings
    paths = {"X509_USER_PROXY": settings.payload_proxy, "BEARER_TOKEN_FILE": settings.payload_token}
    for path in filter(None, paths.values()):
        if not Path(path).is_file():
            raise NoPayloadCredential(f"the payload's credential {path} is not there")
    if settings.payload_proxy_role:
        paths["X509_USER_PROXY"] = str(_fetched(pod, area, stop))
    return {name: path for name, path in paths.items() if path}


def _fetched(pod: Pod, area: JobArea, stop: Stop) -> Path:
    """A proxy that the server hands out for this job, in a file that only we and the payload can read."""
    pod.reporter.ask_proxy(pod.settings.payload_proxy_role)
    message = pod.hear(Deadline.after(_ANSWER_S).sooner(pod.deadline), stop)
    stop.check()
    if not isinstance(message, Granted):
        why = (
            message.error if isinstance(message, Broken) else f"none within {_ANSWER_S:g} s: {pod.reporter.unanswered}"
        )
        raise NoPayloadCredential(f"no proxy for the payload: {why}")
    file = area.root / "payload.proxy"
    file.touch(mode=0o600)
    file.write_text(message.text, encoding="ascii", errors="replace")
    return file
