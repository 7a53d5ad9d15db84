"""The payload's environment, built from nothing: what is not named here does not get in (promise P6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pilot.values.job import Job

INHERITED = ("PATH", "LANG", "LC_ALL", "TZ")
"""The only variables that come from the pilot's own environment."""

_DEFAULTS = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}

THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "BLIS_NUM_THREADS",
    "RAYON_NUM_THREADS",
)
"""How libraries are told to use no more threads than there are cores: by themselves they count the node's."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a payload may use: whole cores, bytes, and ``gpus`` as CUDA names them (UUIDs, with commas)."""

    cores: int = 1
    memory_bytes: int = 0
    scratch_bytes: int = 0
    gpus: str = ""


TOLD: Mapping[str, str] = {
    **dict.fromkeys(THREADS, "cores of the job; unless queue or job set it"),
    "ATHENA_CORE_NUMBER": "cores of the job",
    "ATHENA_PROC_NUMBER": "the same for a job of more than one core; a job of one is serial and has none",
    "CUDA_VISIBLE_DEVICES": "UUIDs of the job's GPUs or MIG instances; empty for a job without",
    "PILOT_CORES": "cores of the job",
    "PILOT_MEMORY_BYTES": "memory that the job may use: what it asks for, else what the pod has",
    "PILOT_SCRATCH_BYTES": "scratch that the job may use, likewise",
    "PILOT_PAYLOAD_MARK": "what proves its processes to be the payload's",
    "PANDAID": "the job's number",
    "HOME, PWD": "the work directory",
    "TMPDIR": "a directory beside it",
    "X509_USER_PROXY, BEARER_TOKEN_FILE": "paths of the payload's own credentials, where it has any",
}
"""The variables that the pilot sets, for the documentation."""


def payload_environment(
    job: Job,
    work: Path,
    scratch: Path,
    inherited: Mapping[str, str],
    queue: Mapping[str, str],
    credentials: Mapping[str, str],
    grant: Grant,
) -> dict[str, str]:
    """Later ones win: defaults, inherited, threads, the queue's, the job's, and at last what the pilot must set.

    Args:
        job: brings its own, already checked names and values.
        work: the directory that the payload starts in, also its HOME.
        scratch: its TMPDIR.
        inherited: the pilot's environment, of which `INHERITED` is taken.
        queue: ``environ`` of the queue data.
        credentials: variables with the paths of the payload's own credentials; never the pilot's.
        grant: what it may use.
    """
    cores = str(grant.cores)
    return {
        **_DEFAULTS,
        **{name: inherited[name] for name in INHERITED if inherited.get(name)},
        **dict.fromkeys(THREADS, cores),
        **queue,
        **job.environment,
        **credentials,
        "HOME": str(work),
        "PWD": str(work),
        "TMPDIR": str(scratch),
        "PANDAID": str(job.id),
        "PILOT_CORES": cores,
        "PILOT_MEMORY_BYTES": str(grant.memory_bytes),
        "PILOT_SCRATCH_BYTES": str(grant.scratch_bytes),
        "ATHENA_CORE_NUMBER": cores,
        **({"ATHENA_PROC_NUMBER": cores} if grant.cores > 1 else {}),
        "CUDA_VISIBLE_DEVICES": grant.gpus,
    }
