"""What `pilot try` does: a server, a submission, a pilot, and what came out of it."""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from pilot.agent import configuration
from pilot.agent.local.api import LocalServer
from pilot.agent.local.children import child, embedded_server
from pilot.agent.local.jobfile import JobFile, read_job_file
from pilot.agent.local.view import describe
from pilot.agent.local.watch import Watcher, watcher
from pilot.agent.saying import say, say_json
from pilot.files.temporary import temporary_folder
from pilot.values.errors import PilotError, UsageError
from pilot.values.printable import line

_ENDS = ("finished", "failed", "cancelled")
_VERDICT_S = 30.0  # for the server to check the output report
_LAST_LINES = 10


def try_job(file: Path, out: Path | None, inputs_from: Path | None, *, as_json: bool) -> int:
    """Run the job in ``file`` to its end; 0 if it finished, 1 if it failed. Raises PilotError."""
    job = read_job_file(file, inputs_from)
    target = _make(out or Path(f"{job.name}-out"))
    with temporary_folder("pilot-try-") as scratch, watcher(quiet=as_json) as watch:
        status = _run(job, scratch, target, watch)
    if as_json:
        say_json(status)
    else:
        _print(status, target)
    return 0 if status["state"] == "finished" else 1


def _make(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out}: {error.strerror or error}") from None
    return out.absolute()


def _run(job: JobFile, scratch: Path, target: Path, watch: Watcher) -> dict[str, Any]:
    """Server, submission, pilot, verdict, downloads."""
    environment = configuration.without_settings()
    with embedded_server(scratch / "data", environment) as url, LocalServer(url, scratch / "data") as api:
        job_id = api.submit(job.in_place())
        errors = scratch / "run.stderr"
        arguments = ["run", "--server", url, "--queue", "LOCAL", "--max-jobs", "1", "--idle", "30"]
        arguments += ["--work", str(scratch / "work"), "--config", str(_settings(job, scratch))]
        with child(arguments, environment, errors) as pilot:
            try:
                for event in _events(pilot.stdout):
                    watch.event(event)
                code = pilot.wait()
            except KeyboardInterrupt:
                watch.event({"event": "interrupted: stopping the payload, saving its log"})
                pilot.terminate()
                code = pilot.wait()
        if code != 0:
            raise PilotError(f"pilot run left with {code}: {errors.read_text().strip()[-300:] or 'see its log'}")
        status = _await_end(api, job_id)
        _download(api, status, target)
    return status


def _settings(job: JobFile, scratch: Path) -> Path:
    """The pilot's settings file: it may link this job's files, and tells every step."""
    file = scratch / "pilot.yaml"
    roots = sorted({str(path.parent) for path in job.files.values()})
    file.write_text(yaml.safe_dump({"input_roots": roots, "log_format": "json", "log_level": "debug", "grace": 8}))
    return file


def _events(stream: Any) -> Iterator[dict[str, Any]]:
    for one in stream:
        try:
            event = json.loads(one)
        except ValueError:
            event = {"event": one.strip()}
        if isinstance(event, dict):
            yield event


def _await_end(api: LocalServer, job_id: int) -> dict[str, Any]:
    """The status once the server has checked the report."""
    until = time.monotonic() + _VERDICT_S
    while (status := api.status(job_id))["state"] not in _ENDS and time.monotonic() < until:
        time.sleep(0.05)
    return status


def _download(api: LocalServer, status: dict[str, Any], target: Path) -> None:
    """Outputs and log into ``target``; where they lie there is added to the status."""
    for output in status["outputs"]:
        path = target / output["name"]
        api.download(output["url"], path)
        output |= {"url": path.as_uri(), "path": str(path)}
    if status["log"]:
        path = target / status["log"].rsplit("/", 1)[-1]
        api.download(status["log"], path)
        status |= {"log": path.as_uri(), "log_path": str(path)}


def _print(status: dict[str, Any], target: Path) -> None:
    say(describe(status))
    if status["state"] != "finished" and (lines := _last_words(status)):
        say("\nlast lines of the payload's stderr:")
        say("\n".join(f"  | {line(one)}" for one in lines))
    say(f"\nlog      {status.get('log_path', 'was not stored')}")
    say(f"outputs  {target}")
    say(status["state"])


def _last_words(status: dict[str, Any]) -> list[str]:
    """The end of payload.stderr out of the log tarball."""
    if "log_path" not in status:
        return []
    with tarfile.open(status["log_path"]) as tar:
        member = next((one for one in tar if one.name.endswith("/payload.stderr")), None)
        stream = tar.extractfile(member) if member else None
        text = stream.read().decode("utf-8", "replace") if stream else ""
    return text.splitlines()[-_LAST_LINES:]
