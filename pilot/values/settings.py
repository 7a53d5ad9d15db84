"""Settings: everything that a site or a user can choose, in one frozen value with one table behind it.

Each field carries its help, its unit and the environment variables that set it, so that the documentation
and ``pilot run --show-settings`` are made from the code.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_type_hints

from pilot.values.errors import UsageError

EXISTING_OUTPUT = ("error", "rename", "overwrite")
SOFT_SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGXCPU")


def option(
    default: Any, help_text: str, *, unit: str = "", env: tuple[str, ...] = (), secret: bool = False, least: float = 0
) -> Any:
    """A field of `Settings`: ``env`` are further names beside ``PILOT_<FIELD>``; ``least`` bounds numbers."""
    metadata = {"help": help_text, "unit": unit, "env": env, "secret": secret, "least": least}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Settings:
    """What `pilot run` works with. Empty text means: not set."""

    server: str = option("http://127.0.0.1:25080", "base URL of the PanDA server", env=("PANDA_SERVER_URL",))
    queue: str = option("LOCAL", "PanDA queue to take jobs of", env=("pandaQueueName", "computingSite"))
    work: str = option("pilot-work", "scratch directory; made if missing", unit="path", env=("TMPDIR",))
    max_jobs: int = option(0, "take at most so many jobs; 0: one, and more only within the queue's timefloor")
    idle: float = option(300.0, "leave after so long without a job", unit="s")
    job: str = option("", "push mode: exactly the job in this file", unit="path")
    submit_mode: str = option(
        "PULL", "PUSH: the job of Harvester's ConfigMap, where none is named", env=("submit_mode",)
    )
    grace: float = option(30.0, "what SIGTERM leaves us before SIGKILL", unit="s", env=("PILOT_GRACE_S",), least=0.1)
    deadline: float = option(
        0.0, "stop by ourselves so long after the start; 0: never", unit="s", env=("PILOT_DEADLINE_S",)
    )
    heartbeat: float = option(300.0, "time between two updates of a job, +-10 %", unit="s", least=0.1)
    debug_heartbeat: float = option(60.0, "the same for a job in debug mode", unit="s", least=0.1)
    patience: float = option(
        3600.0, "how long a final report, an output, or the start of a process, is tried again", unit="s"
    )
    lease: float = option(
        7200.0, "the server ends a job that was silent for so long: after that it is asked before outputs go", unit="s"
    )
    lost_answer: float = option(
        30.0, "after an acquire whose answer was lost, ask for a job no sooner than so long later", unit="s"
    )
    late_answer: float = option(0.7, "after a stop, wait so long for the answer to an acquire in flight", unit="s")
    stuck: float = option(
        300.0, "end a pilot that has done nothing for so long, and was not waiting (exit 2)", unit="s", least=0.1
    )
    drain_file: str = option(
        "", "while this file is there no job is taken; default: drain in the scratch directory", unit="path"
    )
    # the payload's end
    soft_signal: str = option("SIGTERM", "what a payload that is to stop gets before SIGKILL")
    save_stopped: bool = option(
        False, "put outputs and checkpoints of a stopped payload into its log tarball; queues: save_stopped in catchall"
    )
    checkpoints: tuple[str, ...] = option((), "patterns of the files, in the work directory, that a stopped job saves")
    # what the server is told of us
    label: str = option("managed", "prod_source_label to ask for", env=("prodSourceLabel",))
    resource_type: str = option("", "resource type to ask for, as it is", env=("resourceType",))
    job_type: str = option("", "job type to ask for", env=("jobType",))
    harvester_id: str = option(
        "", "Harvester's name; with worker_id the worker's start and end are told", env=("HARVESTER_ID",)
    )
    worker_id: str = option("", "Harvester's number for this worker", env=("HARVESTER_WORKER_ID", "workerID"))
    node: str = option("", "name of this node or slot; default: the host name", env=("PANDA_HOSTNAME",))
    batch_id: str = option("", "the batch system's name for us; never changes in a job's life", env=("K8S_JOB_ID",))
    scheduler_id: str = option("", "scheduler's name; default: harvester-<harvester_id>", env=("PANDA_JSID",))
    pilot_type: str = option("PR", "flavour of the pilot, as the server's pages show it", env=("pilotType",))
    in_pod: bool = option(False, "SIGTERM means preemption", env=("KUBERNETES_SERVICE_HOST", "K8S_JOB_ID"))
    # the site
    queuedata: str = option(
        "",
        "URL or file of the queue data; default: <server>/cache/schedconfig/<queue>.all.json",
        env=("QUEUEDATA_SERVER_URL",),
    )
    storagedata: str = option(
        "",
        "URL or file of the storage data; default: <server>/cache/ddmendpoints.json",
        env=("STORAGEDATA_SERVER_URL",),
    )
    cpu_limit: float = option(
        0.0, "CPU that we may use; 0: what the kernel lets us", unit="millicores", env=("POD_CPU_LIMIT_M",)
    )
    memory_limit: float = option(
        0.0, "memory that we may use; 0: what the kernel lets us", unit="MiB", env=("POD_MEMORY_LIMIT_MIB",)
    )
    disk_limit: float = option(
        0.0,
        "scratch that we may use; 0: what is free",
        unit="MiB",
        env=("storageLimitMiB", "storageRequestMiB", "POD_EPHEMERAL_STORAGE_LIMIT_MIB"),
    )
    gpu_wait: float = option(
        60.0, "wait so long for a GPU that is lost, or filled by others, before leaving with 64", unit="s"
    )
    gpu_used: float = option(500.0, "a GPU with more memory in use before a job is somebody else's", unit="MiB")
    # identity
    ca: str = option(
        "",
        "CA bundle or directory that servers are verified with; default: the system's",
        unit="path",
        env=("X509_CERT_DIR",),
    )
    certificate: str = option(
        "", "PEM file with client certificate and key", unit="path", env=("X509_USER_PROXY", "proxySecretPath")
    )
    token: str = option(
        "",
        "file with the bearer token for the server; a bare name is looked for in token_dir",
        unit="path",
        env=("OIDC_AUTH_TOKEN", "PANDA_AUTH_TOKEN"),
    )
    token_dir: str = option("", "where token and token key are", unit="path", env=("OIDC_AUTH_DIR", "PANDA_AUTH_DIR"))
    token_key: str = option(
        "", "file with the key that a fresh token is asked for with", unit="path", env=("PANDA_AUTH_TOKEN_KEY",)
    )
    token_origin: str = option(
        "", "Origin that goes with the token: <vo>.<role>", env=("OIDC_AUTH_ORIGIN", "PANDA_AUTH_ORIGIN")
    )
    token_client: str = option("pilot_server", "client name that a fresh token is asked for with")
    storage_token: str = option(
        "",
        "file with the bearer token for the site's storages, where storage_credentials names no other",
        unit="path",
        env=("BEARER_TOKEN_FILE",),
    )
    storage_credentials: tuple[str, ...] = option(
        (),
        "what single storages get, HOST[:PORT]= with token:FILE, tokens:DIRECTORY (the token of the right audience and "
        "scope), proxy:FILE or none behind it; the first that fits, then storage_token and certificate",
    )
    payload_proxy: str = option("", "the payload's own proxy: its path is what the payload sees", unit="path")
    payload_proxy_role: str = option("", "ask the server for the payload's proxy, with this role, for each job")
    payload_token: str = option("", "the payload's own token: its path is what the payload sees", unit="path")
    http_proxy: str = option("", "HTTP proxy for storage and server")
    # files
    transform_urls: tuple[str, ...] = option(
        (), "base URLs that a transformation may be downloaded from", env=("PANDA_BASE_URLS",)
    )
    input_roots: tuple[str, ...] = option((), "directories that a job may name in file: URLs of its inputs")
    lanes: int = option(4, "files that may be moved at once, each in a process of its own", least=1)
    stagein_via: str = option(
        "", "storage near us that inputs are copied to first, by third-party copy; queues: stagein_via in params"
    )
    stageout_via: str = option(
        "", "storage near us that outputs go to first, and on by third-party copy; queues: stageout_via in params"
    )
    existing_output: str = option(
        "error",
        "where another file has an output's place: error, overwrite, or rename (stored as NAME.JOB.ATTEMPT)",
    )
    output_redirects: tuple[str, ...] = option(
        (),
        "hosts, as patterns of HOST or HOST:PORT, that a web storage may send outputs on to, such as its data servers; "
        "without, an output stays with the origin of its destination. No credential goes there",
    )
    max_output: int = option(0, "refuse an output that is larger, before any is sent; 0: no limit", unit="MiB")
    connect_limit: float = option(15.0, "time limit to connect to a storage", unit="s", least=0.1)
    idle_limit: float = option(60.0, "time limit without a byte in a transfer", unit="s", least=0.1)
    slow_limit: float = option(
        1000.0, "a transfer slower than that over 300 s is given up where there is another replica", unit="kB/s"
    )
    # hyper-parameter jobs
    slots: int = option(
        0, "evaluations at once, of those that GPUs or sidecars allow; 0: all of them, or one for each group of cores"
    )
    points_per_gpu: int = option(1, "evaluations at once on one GPU or MIG instance", least=1)
    slot_cores: int = option(0, "cores of one evaluation on a pod without GPUs; 0: what the job asks for")
    own_images: tuple[str, ...] = option(
        (), "patterns of container images that this pod's own image stands for, such as */analysis:*"
    )
    sidecars: str = option("", "directory shared with containers that evaluate, one subdirectory for each", unit="path")
    idds_servers: tuple[str, ...] = option(
        (), "base URLs of iDDS that get our credentials; a job that names another goes through the PanDA server's relay"
    )
    linger: float = option(900.0, "wait so long for points while others evaluate theirs, holding none", unit="s")
    steering_wait: float = option(600.0, "wait so long for points when all have their loss", unit="s")
    linger_poll: float = option(30.0, "ask for points so often while waiting, at the end", unit="s", least=0.1)
    point_retries: int = option(1, "a point whose evaluation failed is tried here so often again")
    point_failure: str = option(
        "release", "a point that failed for good: release it to others, or penalise it with a loss of 100000"
    )
    checkpoint_limit: int = option(100, "larger checkpoints are not saved", unit="MiB", least=1)
    progress_pattern: str = option(
        "", "regular expression of intermediate losses in an evaluation's output, with groups loss and step"
    )
    # logs
    log_format: str = option("text", "the log on stdout: text or json")
    log_level: str = option("info", "the log on stdout: debug, info, warning or error")
    log_url: str = option("", "where people find our log; default: below logs_read", env=("GTAG",))
    logs_write: str = option("", "cache to upload our log to", env=("logs_frontend_w",))
    logs_read: str = option("", "where that cache is read", env=("logs_frontend_r",))
    log_interval: float = option(600.0, "time between two uploads of pieces of our log", unit="s", least=1)
    termination_log: str = option(
        "", "file for the last line on our end; default in a pod: /dev/termination-log", unit="path"
    )

    @property
    def log_stem(self) -> str:
        """The first part of our log's names in the cache; "" where Harvester has not named us."""
        return f"{self.harvester_id}_{self.worker_id}" if self.harvester_id and self.worker_id else ""

    @property
    def log_address(self) -> str:
        """Where people find our log, as Harvester's starter would say it (harvester-k8s.md section 5); or ""."""
        if self.log_url or not (self.logs_read and self.log_stem):
            return self.log_url
        return f"{self.logs_read.rstrip('/')}/{self.log_stem}_gz.out"

    @property
    def log_upload_url(self) -> str:
        """The call that takes our log, made from Harvester's ``logs_frontend_w``; "" where there is none."""
        if not (self.logs_write and self.log_stem):
            return ""
        base = self.logs_write.replace(":None", "").rstrip("/").removesuffix("/server/panda")
        return f"{base}/api/v1/file_server/upload_cache_file"


def names() -> tuple[str, ...]:
    """The settings' names, in the order of the table."""
    return tuple(one.name for one in fields(Settings))


def environment_names(name: str) -> tuple[str, ...]:
    """The environment variables that set a field, the first one wins."""
    metadata = {one.name: one.metadata for one in fields(Settings)}[name]
    return (f"PILOT_{name.upper()}", *metadata["env"])


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings, and where each came from (default, file, the variable's name, or flag)."""

    settings: Settings
    origins: Mapping[str, str]


def resolve(file: Mapping[str, Any], environ: Mapping[str, str], flags: Mapping[str, Any]) -> Resolved:
    """Defaults < file < environment < flags. Raises UsageError naming the setting and its source."""
    for key in file:
        if key not in names():
            near = difflib.get_close_matches(str(key), names(), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"settings file: unknown setting {str(key)[:60]!r}{hint}")
    chosen: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name in names():
        origin, raw = _find(name, file, environ, flags)
        origins[name] = origin
        if origin != "default":
            chosen[name] = _convert(name, raw, origin)
    return Resolved(_checked(Settings(**chosen)), origins)


def _find(name: str, file: Mapping[str, Any], environ: Mapping[str, str], flags: Mapping[str, Any]) -> tuple[str, Any]:
    if flags.get(name) is not None:
        return "flag", flags[name]
    for variable in environment_names(name):
        if environ.get(variable):
            return variable, environ[variable]
    if name in file and file[name] is not None:
        return "file", file[name]
    return "default", None


def _convert(name: str, raw: Any, origin: str) -> Any:
    kind = get_type_hints(Settings)[name]
    several = isinstance(raw, (list, tuple)) and bool(get_args(kind))
    try:
        values = [_single(one, kind) for one in (raw if several else [raw])]
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name} (from {origin}): {str(raw)[:60]!r} is not {_WORDS.get(kind, 'texts')}") from None
    for value in values:
        _check_bounds(name, value, origin)
    if get_args(kind):
        return tuple(values) if several else tuple(values[0].split(","))
    return values[0]


def _single(raw: Any, kind: Any) -> Any:
    """One value. Raises TypeError, ValueError or OverflowError for what cannot be it."""
    if not isinstance(raw, (str, int, float)):
        raise TypeError(raw)
    if kind is bool:
        return str(raw).strip().lower() not in ("", "0", "false", "no", "off")
    return str(raw) if get_args(kind) else kind(raw)


_WORDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def _check_bounds(name: str, value: Any, origin: str) -> None:
    least = {one.name: one.metadata for one in fields(Settings)}[name]["least"]
    if isinstance(value, (int, float)) and not least <= value < 1e10:
        raise UsageError(f"{name} (from {origin}): {value} must be at least {least:g}")
    if isinstance(value, str) and any(ord(char) < 32 for char in value):
        raise UsageError(f"{name} (from {origin}): holds a control character")


def _check_pattern(text: str) -> None:
    try:
        groups = re.compile(text).groups
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"progress_pattern: {text[:60]!r} is no regular expression: {str(error)[:200]}") from None
    if text and not groups:
        raise UsageError(f"progress_pattern: {text[:60]!r} has no group that is the loss: write (?P<loss>...)")


def _checked(settings: Settings) -> Settings:
    if not settings.server.startswith(("http://", "https://")):
        raise UsageError(f"server: {settings.server[:100]!r} is no http or https URL")
    if settings.log_format not in ("text", "json"):
        raise UsageError(f"log_format: {settings.log_format[:20]!r} is neither text nor json")
    if settings.log_level not in ("debug", "info", "warning", "error"):
        raise UsageError(f"log_level: {settings.log_level[:20]!r} is not debug, info, warning or error")
    if settings.soft_signal not in SOFT_SIGNALS:
        raise UsageError(f"soft_signal: {settings.soft_signal[:20]!r} is none of {', '.join(SOFT_SIGNALS)}")
    if settings.existing_output not in EXISTING_OUTPUT:
        raise UsageError(f"existing_output: {settings.existing_output[:20]!r} is none of {', '.join(EXISTING_OUTPUT)}")
    if settings.point_failure not in ("release", "penalise"):
        raise UsageError(f"point_failure: {settings.point_failure[:20]!r} is neither release nor penalise")
    _check_pattern(settings.progress_pattern)
    for pattern in settings.checkpoints:
        parts = pattern.split("/")
        if not all(parts) or {".", ".."} & set(parts) or any("**" in part and part != "**" for part in parts):
            raise UsageError(f"checkpoints: {pattern[:60]!r} is no pattern of files in the work directory")
    if settings.worker_id and not settings.worker_id.isdigit():
        raise UsageError(f"worker_id: {settings.worker_id[:20]!r} is not a number")
    return settings
