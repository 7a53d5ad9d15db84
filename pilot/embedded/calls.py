"""Every call that this server answers, with the signatures of panda-server 1.0.4."""

from __future__ import annotations

from typing import Any

from pilot.embedded.signatures import (
    ANY,
    BOOL,
    BUILTIN_ID,
    FILE,
    FLOAT,
    INT,
    INTS,
    LIST,
    NUMBER,
    OBJECT_OR_TEXT,
    STR,
    TEXTS,
    Call,
    fields,
)

_ACQUIRE = fields(
    {"site_name": STR},
    {
        "timeout": INT,
        "memory": INT,
        "disk_space": INT,
        "prod_source_label": STR,
        "node": STR,
        "computing_element": STR,
        "prod_user_id": STR,
        "get_proxy_key": STR,
        "task_id": INT,
        "n_jobs": INT,
        "background": BOOL,
        "resource_type": STR,
        "harvester_id": STR,
        "worker_id": INT,
        "scheduler_id": STR,
        "job_type": STR,
        "via_topic": BOOL,
        "remaining_time": ANY,
        "target_architecture": OBJECT_OR_TEXT,
    },
    timeout=60,
    n_jobs=1,
)

_UPDATE = fields(
    {"job_id": INT, "job_status": STR},
    {
        "job_sub_status": STR,
        "start_time": STR,
        "end_time": STR,
        "pilot_timing": STR,
        "site_name": STR,
        "node": STR,
        "scheduler_id": STR,
        "pilot_id": STR,
        "batch_id": STR,
        "trans_exit_code": INT,
        "pilot_error_code": INT,
        "pilot_error_diag": STR,
        "exe_error_code": INT,
        "exe_error_diag": STR,
        "n_events": INT,
        "n_input_files": INT,
        "attempt_nr": INT,
        "cpu_consumption_time": INT,
        "cpu_consumption_unit": STR,
        "cpu_conversion_factor": NUMBER,
        "cpu_architecture_level": STR,
        "core_count": INT,
        "mean_core_count": INT,
        **{f"{kind}_{what}": NUMBER for kind in ("max", "avg") for what in ("rss", "vmem", "swap", "pss")},
        **{f"{kind}_{what}": NUMBER for kind in ("tot", "rate") for what in ("rchar", "wchar", "rbytes", "wbytes")},
        "job_metrics": STR,
        "job_output_report": STR,
        "meta_data": STR,
        "pilot_log": STR,
        "stdout": STR,
        "corrupted_files": STR,
        "grid": STR,
        "source_site": STR,
        "destination_site": STR,
        "timeout": INT,
    },
    job_output_report="",
    meta_data="",
    pilot_log="",
    stdout="",
    timeout=60,
)

_WORKER = fields({"worker_id": ANY, "harvester_id": ANY, "status": ANY}, {"timeout": ANY, "node_id": ANY}, timeout=60)

_NODE = fields(
    {"site": STR, "host_name": STR, "cpu_model": STR},
    {
        "panda_queue": STR,
        **dict.fromkeys(("n_logical_cpus", "n_sockets", "cores_per_socket", "threads_per_core"), INT),
        **dict.fromkeys(("cpu_architecture", "cpu_architecture_level"), STR),
        "clock_speed": FLOAT,
        "total_memory": INT,
        "total_local_disk": INT,
        "timeout": INT,
    },
    timeout=60,
)

_GPU = fields(
    {"site": STR, "host_name": STR, "vendor": STR, "model": STR, "count": INT},
    {
        "vram": INT,
        **dict.fromkeys(("architecture", "framework", "framework_version", "driver_version"), STR),
        "timeout": INT,
    },
    timeout=60,
)

_RANGES = fields(
    {"job_id": INT, "jobset_id": INT},
    {"task_id": INT, "n_ranges": INT, "scattered": BOOL, "segment_id": INT, "timeout": INT},
    n_ranges=10,
    scattered=False,
    timeout=60,
)

_ONE_RANGE = fields(
    {"event_range_id": STR, "event_range_status": STR},
    {"core_count": INT, "cpu_consumption_time": FLOAT, "object_store_id": BUILTIN_ID, "timeout": INT},
    timeout=60,
)


def _plain(module: str, name: str, method: str, *more: dict[str, Any]) -> Call:
    """A call for anybody who says who he is."""
    return Call(module, name, method, {key: one for part in more for key, one in part.items()}, production=False)


_JOB_IDS = fields({"job_ids": INTS}, {"timeout": INT}, timeout=60)

CALLS = {
    (call.module, call.name): call
    for call in (
        _plain("pilot", "acquire_jobs", "POST", _ACQUIRE),
        Call("pilot", "update_job", "POST", _UPDATE),
        Call("pilot", "update_jobs_bulk", "POST", fields({"job_list": LIST}, {"harvester_id": STR})),
        _plain("pilot", "get_job_status", "GET", _JOB_IDS),
        Call("pilot", "update_worker_status", "POST", _WORKER),
        Call("pilot", "update_worker_node", "POST", _NODE),
        Call("pilot", "update_worker_node_gpu", "POST", _GPU),
        Call("system", "is_alive", "GET", {}, secure=False, production=False),
        _plain("job", "get_status", "GET", _JOB_IDS),
        _plain(
            "job",
            "kill",
            "POST",
            fields({"job_ids": LIST}, {"code": INT, "kill_options": LIST, "timeout": INT}, timeout=60),
        ),
        Call("job", "set_command", "POST", fields({"job_id": INT, "command": STR}, {"timeout": INT}, timeout=60)),
        Call("job", "set_debug_mode", "POST", fields({"job_id": INT, "mode": BOOL})),
        _plain("metaconfig", "get_resource_types", "GET"),
        Call("event", "acquire_event_ranges", "POST", _RANGES),
        Call(
            "event",
            "update_event_ranges",
            "POST",
            fields({"event_ranges": STR}, {"version": INT, "timeout": INT}, version=0, timeout=120),
        ),
        Call("event", "update_single_event_range", "POST", _ONE_RANGE),
        Call(
            "event",
            "get_available_event_range_count",
            "GET",
            fields(dict.fromkeys(("job_id", "jobset_id", "task_id"), INT), {"timeout": INT}, timeout=60),
        ),
        _plain(
            "event",
            "get_event_range_statuses",
            "GET",
            fields({"job_task_ids": STR}, {"timeout": INT}, timeout=60),
        ),
        _plain(
            "idds",
            "relay_idds_command",
            "POST",
            fields({"command_name": STR}, {"args": STR, "kwargs": STR, "manager": BOOL, "json_outputs": BOOL}),
        ),
        _plain("creds", "get_proxy", "GET", fields({}, {"role": STR, "dn": STR})),
        _plain("creds", "get_access_token", "GET", fields({"client_name": STR}, {"token_key": STR})),
        _plain("creds", "get_token_key", "GET", fields({"client_name": STR})),
        _plain("creds", "get_key_pair", "GET", fields({"public_key_name": STR, "private_key_name": STR})),
        _plain("creds", "get_user_secrets", "GET", fields({}, {"keys": TEXTS})),
        _plain("creds", "set_user_secrets", "POST", fields({"key": STR, "value": STR})),
        _plain("file_server", "upload_cache_file", "POST", fields({"file": FILE})),
        _plain("file_server", "upload_hpo_checkpoint", "POST", fields({"file": FILE})),
        _plain("file_server", "delete_hpo_checkpoint", "POST", fields({"task_id": STR, "sub_id": STR})),
    )
}
"""By module and name."""
