"""Every field that the pilot sends in a call of PanDA's v1 API: type, length, unit, and where its value comes from.

A name that is not here is not sent: an unknown keyword loses the whole call. Nor does a value leave in
another type or length: a wrong type loses the call, a NUL or an over-long text in some fields makes an
update fail for ever (panda-live-behaviour.md "update_job", corrections A5, A6, B5). docs/calls.md is made
from this table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pilot.values.printable import block, line
from pilot.values.redaction import Redactor


@dataclass(frozen=True, slots=True)
class Field:
    """A field: its JSON type, what it is made of, its unit, and a text's greatest length (0: no limit).

    ``foreign``: it can hold what payloads, storages or servers have said, so secrets are taken out of it, and what
    is not printable: from a ``line``, a ``block`` of lines, or ``json``. All other fields are ours, and arrive as
    they are whatever a secret may be.
    """

    kind: type
    source: str
    unit: str = ""
    limit: int = 0
    foreign: Literal["", "line", "block", "json"] = ""


_WORKER = {
    "harvester_id": Field(str, "setting harvester_id"),
    "worker_id": Field(int, "setting worker_id"),
}

CALLS: dict[str, dict[str, Field]] = {
    "POST pilot/acquire_jobs": {
        "site_name": Field(str, "panda_resource of the queue data"),
        "prod_source_label": Field(str, "setting label"),
        "node": Field(str, "setting node, else the host name", limit=128),
        "computing_element": Field(str, "nickname of the queue data"),
        "memory": Field(int, "memory limit of the control group, a variable or a setting, else physical memory", "MiB"),
        "disk_space": Field(
            int, "least of free disk, maxwdir, and the setting disk_limit less what is used of it", "MiB"
        ),
        "remaining_time": Field(int, "what is left to the pilot's deadline; left out without one", "s"),
        "resource_type": Field(str, "setting resource_type, as it is"),
        "job_type": Field(str, "setting job_type"),
        "scheduler_id": Field(str, "setting scheduler_id"),
        **_WORKER,
        "target_architecture": Field(dict, "map of the GPUs; never again after a server has refused the keyword"),
        "n_jobs": Field(int, "1"),
    },
    "POST pilot/update_job": {
        "job_id": Field(int, "PandaID of the definition"),
        "job_status": Field(str, "starting, running, finished or failed"),
        "attempt_nr": Field(int, "attemptNr of the definition"),
        "job_sub_status": Field(
            str, "phase of the route; at the end finished, or the phase that the job failed in", limit=80
        ),
        "start_time": Field(str, "wall clock when the job was acquired", "UTC, YYYY-mm-dd HH:MM:SS", 19),
        "end_time": Field(str, "wall clock at the end of the route", "UTC, YYYY-mm-dd HH:MM:SS", 19),
        "pilot_timing": Field(str, "getjob|stagein|payload|stageout|initial_setup|setup", "s", 100),
        "site_name": Field(str, "panda_resource of the queue data"),
        "node": Field(str, "setting node, else the host name", limit=128),
        "scheduler_id": Field(str, "setting scheduler_id, else harvester-<harvester_id>", limit=128),
        "pilot_id": Field(str, "log URL|batch system|pilot type|version", limit=200),
        "batch_id": Field(str, "setting batch_id; never changes in a job's life", limit=80),
        "trans_exit_code": Field(int, "the payload's wait status: its exit code, or minus the signal"),
        "pilot_error_code": Field(int, "code of the first cause, 0 for none"),
        "pilot_error_diag": Field(str, "text of the first cause", limit=500, foreign="line"),
        "exe_error_code": Field(int, "exit code of a payload that failed by itself"),
        "exe_error_diag": Field(str, "last line of the stderr of a payload that failed", limit=500, foreign="line"),
        "cpu_consumption_time": Field(int, "CPU time of the payload's processes, ended and orphaned ones too", "s"),
        "cpu_consumption_unit": Field(str, "s+<CPU model>+AVX2", limit=128),
        "cpu_architecture_level": Field(str, "level of /proc/cpuinfo's flags, such as x86_64-v3", limit=20),
        "mean_core_count": Field(int, "CPU time through wall time of the payload", "cores"),
        "core_count": Field(int, "coreCount of the definition", "cores"),
        "max_vmem": Field(float, "peak of address space, summed over the payload's processes", "KiB"),
        "max_rss": Field(float, "peak of resident memory, summed over the payload's processes", "KiB"),
        "max_pss": Field(float, "peak of proportional memory, summed over the payload's processes", "KiB"),
        "max_swap": Field(float, "peak of swap, summed over the payload's processes", "KiB"),
        "avg_vmem": Field(float, "mean over time of address space, summed over the payload's processes", "KiB"),
        "avg_rss": Field(float, "mean over time of resident memory, summed over the payload's processes", "KiB"),
        "avg_pss": Field(float, "mean over time of proportional memory, summed over the payload's processes", "KiB"),
        "avg_swap": Field(float, "mean over time of swap, summed over the payload's processes", "KiB"),
        "tot_rbytes": Field(float, "read from storage by the payload's processes", "bytes"),
        "tot_wbytes": Field(float, "written to storage, likewise", "bytes"),
        "rate_rbytes": Field(float, "the same through wall time", "bytes/s"),
        "rate_wbytes": Field(float, "the same through wall time", "bytes/s"),
        "job_metrics": Field(
            str, "name=value entries: cores, samples, GPUs; cut at the last whole one", limit=500, foreign="line"
        ),
        "n_input_files": Field(int, "inputs of the definition"),
        "job_output_report": Field(str, "JSON: guid, fsize, adler32, surl, endpoint by LFN"),
        "meta_data": Field(str, "JSON: the job report", foreign="json"),
        "pilot_log": Field(str, "end of the pilot's log of the job", limit=1024, foreign="block"),
        "stdout": Field(str, "debug tail, or what a command asked to see", limit=2048, foreign="block"),
    },
    "GET pilot/get_job_status": {"job_ids": Field(int, "PandaID")},
    "POST pilot/update_worker_status": {
        **_WORKER,
        "status": Field(str, "started in the first second, finished in the last"),
        "node_id": Field(str, "setting node, else the host name"),
    },
    "POST pilot/update_worker_node": {
        "site": Field(str, "atlas_site or gstat of the queue data", limit=128),
        "panda_queue": Field(str, "nickname of the queue data", limit=128),
        "host_name": Field(str, "setting node, else the host name", limit=128),
        "cpu_model": Field(str, "/proc/cpuinfo", limit=128),
        "n_logical_cpus": Field(int, "/proc/cpuinfo, the node's"),
        "n_sockets": Field(int, "/sys/devices/system/cpu, else /proc/cpuinfo"),
        "cores_per_socket": Field(int, "likewise"),
        "threads_per_core": Field(int, "likewise"),
        "cpu_architecture": Field(str, "uname", limit=128),
        "cpu_architecture_level": Field(str, "level of /proc/cpuinfo's flags, such as x86-64-v3", limit=128),
        "clock_speed": Field(float, "/proc/cpuinfo", "MHz"),
        "total_memory": Field(int, "physical memory of the node", "MiB"),
        "total_local_disk": Field(int, "the file system of the scratch directory", "GB"),
    },
    "POST pilot/update_worker_node_gpu": {
        "site": Field(str, "atlas_site or gstat of the queue data", limit=128),
        "host_name": Field(str, "setting node, else the host name", limit=128),
        "vendor": Field(str, "NVIDIA", limit=128),
        "model": Field(str, "NVML; one call per model", limit=128),
        "count": Field(int, "healthy GPUs of the model that the pod has"),
        "vram": Field(int, "NVML, memory of one", "MiB"),
        "architecture": Field(str, "NVML", limit=128),
        "framework": Field(str, "CUDA, where the driver has it", limit=128),
        "framework_version": Field(str, "NVML, the driver's CUDA version", limit=128),
        "driver_version": Field(str, "NVML", limit=128),
    },
    "POST event/acquire_event_ranges": {
        "job_id": Field(int, "PandaID"),
        "jobset_id": Field(int, "jobsetID of the definition"),
        "task_id": Field(int, "taskID of the definition"),
        "n_ranges": Field(int, "how many are wanted"),
        "segment_id": Field(int, "--segmentID of a hyper-parameter job; left out without one"),
    },
    "POST event/update_event_ranges": {
        "event_ranges": Field(str, "JSON: eventRangeID, eventStatus, errorCode, errorDiag (500 characters)"),
        "version": Field(int, "0"),
    },
    "POST event/update_single_event_range": {
        "event_range_id": Field(str, "id of the range"),
        "event_range_status": Field(str, "finished, failed or fatal"),
    },
    "GET event/get_event_range_statuses": {
        "job_task_ids": Field(str, "JSON: task_id, and PandaID as panda_id and job_id")
    },
    "POST idds/relay_idds_command": {
        "command_name": Field(str, "get_hyperparameters or update_hyperparameter"),
        "kwargs": Field(str, "JSON: workload_id (the task), request_id (null), id (of the point), loss"),
    },
    "GET creds/get_access_token": {
        "client_name": Field(str, "setting token_client"),
        "token_key": Field(str, "content of the file in setting token_key"),
    },
    "GET creds/get_proxy": {"role": Field(str, "asked for by the caller"), "dn": Field(str, "asked for by the caller")},
    "GET creds/get_key_pair": {
        "public_key_name": Field(str, "storage data"),
        "private_key_name": Field(str, "storage data"),
    },
    "GET creds/get_user_secrets": {"keys": Field(str, "asked for by the caller, repeated")},
    "GET metaconfig/get_resource_types": {},
    "POST file_server/upload_cache_file": {
        "file": Field(bytes, "the pilot's log, gzipped, as <harvester>_<worker>_gz.out and in pieces", "", 100 << 20)
    },
    "POST file_server/upload_hpo_checkpoint": {
        "file": Field(bytes, "checkpoint of a hyper-parameter point, as <task>_<point>", "", 500 << 20)
    },
    "POST file_server/delete_hpo_checkpoint": {
        "task_id": Field(str, "taskID of the definition"),
        "sub_id": Field(str, "id of the point"),
    },
}

FIELDS = CALLS["POST pilot/update_job"]

_CORE = (
    "job_id",
    "job_status",
    "attempt_nr",
    "pilot_error_code",
    "pilot_error_diag",
    "trans_exit_code",
    "job_output_report",
)


def clean(update: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """The update as it may be sent, without secrets: texts plain and cut, numbers in their type.

    None and what is no number is left out.

    Raises KeyError for a name that the server does not know.
    """
    result: dict[str, Any] = {}
    for name, value in without_secrets(update, redactor).items():
        field = FIELDS[name]
        if value is None:
            continue
        if field.kind is str:
            text = _plain(str(value))
            result[name] = text[: field.limit] if field.limit else text
        elif not isinstance(value, float) or math.isfinite(value):
            result[name] = int(value)  # an int passes where the server takes int or float
    return result


def _plain(text: str) -> str:
    """Text that a database takes: no NUL, and no half of a surrogate pair, which a name that is not UTF-8 becomes."""
    return text.replace("\x00", "").encode("utf-8", "replace").decode("utf-8")


def without_secrets(update: Mapping[str, Any], redactor: Redactor) -> dict[str, Any]:
    """The update with its foreign texts as they may be shown to anybody."""
    return {name: _shown(value, FIELDS[name], redactor) for name, value in update.items()}


def _shown(text: Any, field: Field, redactor: Redactor) -> Any:
    match field.foreign if isinstance(text, str) else "":
        case "line":
            return line(redactor.clean(text))
        case "block":
            return block(redactor.clean(text))
        case "json":
            return redactor.json_text(text)
    return text


def core(update: Mapping[str, Any]) -> dict[str, Any]:
    """What must arrive of a final update, when the server refuses the whole of it."""
    return {name: update[name] for name in _CORE if name in update}
