"""What the server is told of a job: its identity, its phases, and the one final (panda-protocol.md 5)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from pilot.resources.cpu import Cpu
from pilot.runner.observing import metrics
from pilot.values.errors import JobError, PayloadError
from pilot.values.hpo import PointsEnd
from pilot.values.job import Job
from pilot.values.outcome import Outcome, Phase, State, StoredFile
from pilot.values.settings import Settings
from pilot.values.site import Queue
from pilot.values.usage import Usage

_MEMORY = ("vmem", "rss", "pss", "swap")


def identity(job_id: int, attempt: int | None, settings: Settings, queue: Queue, version: str) -> dict[str, Any]:
    """The fields that every update carries, the same ones for the whole life of the job."""
    scheduler = settings.scheduler_id or (f"harvester-{settings.harvester_id}" if settings.harvester_id else None)
    batch_system = "Kubernetes" if settings.in_pod else "local"
    return {
        "job_id": job_id,
        "attempt_nr": attempt,
        "site_name": queue.resource,
        "node": settings.node,
        "scheduler_id": scheduler,
        "pilot_id": "|".join((settings.log_address, batch_system, settings.pilot_type, f"pod-pilot {version}")),
        "batch_id": settings.batch_id or None,
    }


def phase(state: State, sub_status: Phase, began: datetime) -> dict[str, Any]:
    """An update on the way."""
    return {"job_status": state.value, "job_sub_status": sub_status.value, "start_time": _stamp(began)}


def used(usage: Usage, cores: int, cpu: Cpu, gpu_names: Sequence[str] = ()) -> dict[str, Any]:
    """What a payload has used so far, in the server's units: seconds, KiB, bytes, bytes per second (5.1)."""
    seconds = max(usage.seconds, 1e-3)
    return {
        "cpu_consumption_time": round(usage.cpu_s),
        "cpu_consumption_unit": cpu.unit,
        "mean_core_count": round(usage.cpu_s / seconds),
        **{f"max_{name}": getattr(usage, f"max_{name}") >> 10 for name in _MEMORY},
        **{f"avg_{name}": round(getattr(usage, f"avg_{name}") / 1024) for name in _MEMORY},
        "tot_rbytes": usage.read_bytes,
        "tot_wbytes": usage.written_bytes,
        "rate_rbytes": round(usage.read_bytes / seconds),
        "rate_wbytes": round(usage.written_bytes / seconds),
        "job_metrics": job_metrics({"actualCoreCount": cores, **metrics(usage, gpu_names)}),
    }


def job_metrics(entries: Mapping[str, object], most: int = 500) -> str:
    """``name=value`` entries with blanks between, cut at the last whole one below the server's limit (5.6).

    >>> job_metrics({"a": 1, "b": 22}, most=6)
    'a=1'
    """
    text = ""
    for name, value in entries.items():
        entry = f"{text} {name}={value}" if text else f"{name}={value}"
        if len(entry) >= most:
            break
        text = entry
    return text


def _used_at_last(outcome: Outcome, job: Job, cpu: Cpu, gpu_names: Sequence[str]) -> dict[str, Any]:
    """The samples, and what the kernel's own account of the ended process says more; nothing without a payload."""
    payload = outcome.payload
    if payload is None:
        sampled = outcome.usage is not None and outcome.usage.samples > 0
        return used(outcome.usage or Usage(), job.cores, cpu, gpu_names) if sampled else {}
    usage = payload.usage or outcome.usage or Usage()
    seconds = outcome.seconds.get(Phase.PAYLOAD, 0.0)
    whole = replace(
        usage,
        seconds=max(usage.seconds, seconds),
        cpu_s=max(usage.cpu_s, payload.cpu_s),
        max_rss=max(usage.max_rss, payload.max_rss_kib << 10),
    )
    fields = used(whole, job.cores, cpu, gpu_names)
    return {**fields, "mean_core_count": fields["mean_core_count"] if seconds > 0 else None}


def final(job: Job, outcome: Outcome, cpu: Cpu, gpu_names: Sequence[str] = ()) -> dict[str, Any]:
    """The final update. Of a failed job only the log is listed (5.5)."""
    stored = outcome.stored
    if outcome.cause is not None:
        stored = tuple(file for file in stored if job.log is not None and file.lfn == job.log.lfn)
    payload = outcome.payload
    return {
        "job_status": outcome.state.value,
        "job_sub_status": _reached(outcome),
        "start_time": _stamp(outcome.began),
        "end_time": _stamp(outcome.ended),
        "pilot_timing": _timing(outcome.seconds),
        "trans_exit_code": payload.exit_code if payload else None,
        "pilot_error_code": outcome.cause.code if outcome.cause else 0,
        "pilot_error_diag": str(outcome.cause) if outcome.cause else None,
        "exe_error_code": payload.exit_code if payload and isinstance(outcome.cause, PayloadError) else None,
        "exe_error_diag": (outcome.stderr_line or None) if _died(outcome) else None,
        **_used_at_last(outcome, job, cpu, gpu_names),
        "cpu_architecture_level": cpu.level or None,
        "core_count": job.cores,
        "n_input_files": len(job.inputs),
        "job_output_report": json.dumps({file.lfn: _listed(file) for file in stored}) if stored else None,
        "meta_data": json.dumps(report(job, outcome)),
        "pilot_log": outcome.log_tail or None,
    }


def _reached(outcome: Outcome) -> str:
    """The sub-status at the end: how far the job came that failed. Without one the last heartbeat's would stay."""
    if outcome.cause is None:
        return outcome.state.value
    return next((name.value for name in reversed(Phase) if name in outcome.seconds), Phase.STARTING.value)


def _died(outcome: Outcome) -> bool:
    """Whether the payload's last words are about an error: programs say all kinds of things on stderr."""
    payload = outcome.payload
    return isinstance(outcome.cause, PayloadError) or (payload is not None and payload.exit_code != 0)


def refusal(error: JobError, now: datetime) -> dict[str, Any]:
    """The final of a job that was not begun."""
    return {
        "job_status": State.FAILED.value,
        "job_sub_status": Phase.STARTING.value,
        "start_time": _stamp(now),
        "end_time": _stamp(now),
        "pilot_error_code": error.code,
        "pilot_error_diag": str(error),
    }


def report(job: Job, outcome: Outcome) -> dict[str, Any]:
    """The job report: meta_data of the final, and a file in the log tarball."""
    payload = outcome.payload
    return {
        "job": {"id": job.id, "attempt": job.attempt},
        "state": outcome.state.value,
        "error": {"code": outcome.cause.code, "diag": str(outcome.cause), "blame": outcome.cause.blame.value}
        if outcome.cause
        else None,
        "payload": {
            "exit_code": payload.exit_code,
            "cpu_s": round(payload.cpu_s, 3),
            "max_rss_kib": payload.max_rss_kib,
        }
        if payload
        else None,
        "timing": {name.replace("-", "_"): round(seconds, 3) for name, seconds in outcome.seconds.items()},
        "outputs": {file.lfn: _listed(file) for file in outcome.stored},
        **(_points(payload.points, outcome.stored) if payload and payload.points else {}),
    }


def _points(points: PointsEnd, stored: Sequence[StoredFile]) -> dict[str, Any]:
    """What became of hyper-parameter points, as users of the wrapper know it (hpo-contract.md 10.8)."""
    best = points.best
    summary = {
        "tried": points.tried,
        "closed": len(points.closed),
        "abandoned": len(points.left),
        "pruned": len(points.pruned),
        "penalised": len(points.penalised),
        "untold": dict(points.untold),
        "best": {"id": best[0], "loss": best[1]} if best else None,
    }
    metrics = [
        {"file_guid": file.guid, "file_size": file.size, "name": file.lfn, "nentries": 1}
        for file in stored
        if file.lfn in points.metrics
    ]
    return {
        "user_job_metadata": {**points.meta, "hpo": summary},
        **({"files": {"output": [{"subFiles": metrics}]}} if metrics else {}),
    }


def _listed(file: StoredFile) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "guid": file.guid,
        "fsize": file.size,
        "adler32": file.checksum.value,
        "surl": str(file.url),
    }
    if file.endpoint is not None:
        entry["endpoint"] = str(file.endpoint)
    return entry


def _timing(seconds: Mapping[Phase, float]) -> str:
    """``getjob|stagein|payload|stageout|initial_setup|setup`` in whole seconds (5.1)."""
    columns = (0.0, *(seconds.get(name, 0.0) for name in (Phase.STAGE_IN, Phase.PAYLOAD, Phase.STAGE_OUT)), 0.0, 0.0)
    return "|".join(str(round(column)) for column in columns)


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")
