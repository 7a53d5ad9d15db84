"""What a payload is lent: credentials of its own, and its share of what the pod has.

The credentials are a third kind, beside the pilot's own and the storage's (promise P6). They lie in files; their
paths are all that the payload's environment holds of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pilot.panda.messages import Broken, Granted
from pilot.payload.environment import Grant
from pilot.resources.gpu import Gpu, choose, cuda_visible
from pilot.resources.probe import Resources
from pilot.runner.area import JobArea
from pilot.runner.pod import Pod
from pilot.runner.secrecy import hide_file
from pilot.values.deadline import Deadline
from pilot.values.errors import NoPayloadCredential, ResourceError
from pilot.values.job import Job
from pilot.values.stop import Stop

_ANSWER_S = 120.0
_PROXY = "payload.proxy"


@dataclass(frozen=True, slots=True)
class Lent:
    """Variables with the paths of credentials, the job's GPUs, and what it may use of the rest."""

    credentials: Mapping[str, str]
    gpus: tuple[Gpu, ...]
    grant: Grant


def _whole_pod(job: Job, resources: Resources, gpus: tuple[Gpu, ...]) -> Grant:
    """All that there is: nothing in the task of a hyper-parameter job says how many points a pod can evaluate."""
    disk = resources.disk_bytes
    return Grant(
        cores=max(job.cores, resources.whole_cores),
        memory_bytes=resources.memory_bytes,
        scratch_bytes=min(disk, job.disk_mib << 20) if job.disk_mib else disk,
        gpus=cuda_visible(gpus),
    )


def lend(job: Job, resources: Resources, pod: Pod, area: JobArea, stop: Stop) -> Lent:
    """All that the payload gets. Raises ResourceError or NoPayloadCredential, before a byte of the job is moved."""
    if job.hpo is not None and pod.settings.sidecars:  # memory and GPUs are theirs, and not ours to count
        return Lent(_credentials(pod, area, stop), (), _whole_pod(job, resources, ()))
    gpus = afford(job, resources)
    if job.hpo is not None:
        gpus = choose(resources.gpus, sum(gpu.healthy for gpu in resources.gpus.devices))
        return Lent(_credentials(pod, area, stop), gpus, _whole_pod(job, resources, gpus))
    memory, disk = resources.memory_bytes, resources.disk_bytes
    grant = Grant(
        cores=job.cores,
        memory_bytes=min(memory, job.memory_mib << 20) if job.memory_mib else memory,
        scratch_bytes=min(disk, job.disk_mib << 20) if job.disk_mib else disk,
        gpus=cuda_visible(gpus),
    )
    return Lent(_credentials(pod, area, stop), gpus, grant)


def afford(job: Job, resources: Resources) -> tuple[Gpu, ...]:
    """The job's GPUs. Raises ResourceError, with both figures, for what the pod has less of than the job asks for."""
    _compare("cores", job.cores, resources.whole_cores, resources.limits_from["cores"])
    _compare("MiB of memory", job.memory_mib, resources.memory_bytes >> 20, resources.limits_from["memory"])
    _compare("MiB of disk", job.disk_mib, resources.disk_bytes >> 20, resources.limits_from["disk"])
    there = sum(gpu.healthy for gpu in resources.gpus.devices)
    _compare("GPUs", job.gpus, there, resources.gpus.note or "NVML")
    return choose(resources.gpus, job.gpus)


def _compare(what: str, wanted: int | None, there: int, said_by: str) -> None:
    if wanted and wanted > there:
        raise ResourceError(f"the job asks for {wanted} {what}, and there are {there} ({said_by})")


def _credentials(pod: Pod, area: JobArea, stop: Stop) -> Mapping[str, str]:
    settings = pod.settings
    paths = {"X509_USER_PROXY": settings.payload_proxy, "BEARER_TOKEN_FILE": settings.payload_token}
    for path in filter(None, paths.values()):
        if not Path(path).is_file():
            raise NoPayloadCredential(f"the payload's credential {path} is not there")
        hide_file(path, pod.redactor)
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
    pod.redactor.learn_of_job(message.text)
    with closing(area.root_folder.create(_PROXY)) as file:
        file.append(message.text.encode("ascii", "replace"))
    return area.root / _PROXY
