"""How a job looks to a person: its events as lines, its status as a table."""

from __future__ import annotations

from typing import Any

from pilot.values.printable import line, lines

_STEPS = {
    "job acquired": "acquired",
    "stage-in": "stage-in",
    "payload started": "payload",
    "payload ended": "payload",
    "stage-out": "stage-out",
    "reporting": "report",
    "final delivered": "report",
}
"""The pilot's events that tell the story of a job, and the phase they belong to."""


def story(event: dict[str, Any]) -> str:
    """One event as a line for people; "" for one that they need not see."""
    event = lines(event)
    name = str(event.get("event"))
    phase = _STEPS.get(name)
    if phase is None:
        return f"{event['level']}: {name}" if event.get("level") in ("warning", "error") else ""
    details = {
        "job acquired": lambda: f"job {event.get('job')}",
        "payload started": lambda: f"started, pid {event.get('pid')}",
        "payload ended": lambda: f"ended with {event.get('exit_code')}, {event.get('cpu_s', 0):.2f} s of CPU",
        "reporting": lambda: f"{event.get('state')}",
        "final delivered": lambda: f"{event.get('server')}",
    }
    detail = details.get(name, lambda: f"{event.get('file')}  {size(event.get('bytes', 0))}  {event.get('checksum')}")()
    return f"{phase:<10} {detail}"


def progress(event: dict[str, Any]) -> str:
    """How far a file is, as a line for people."""
    return line(f"{event.get('phase')} {event.get('file')}  {size(event.get('bytes', 0))}")


def size(count: float) -> str:
    """Bytes for people: ``1.2 kB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def describe(status: dict[str, Any]) -> str:
    """A job's status as text: state, cause, outputs, times."""
    status = lines(status)
    told = [f"job {status['id']}  {status['state']}" + _cause(status)]
    if status["outputs"]:
        width = max(len(one["name"]) for one in status["outputs"])
        told += ["", f"{'output':<{width}}  {'size':>10}  adler32   where"]
        told += [
            f"{one['name']:<{width}}  {size(one['size']):>10}  {one['adler32']}  {one.get('path', one['url'])}"
            for one in status["outputs"]
        ]
    spent = "  ".join(f"{name} {seconds:.2f}" for name, seconds in status["seconds"].items() if seconds is not None)
    return "\n".join([*told, "", f"seconds  {spent}"])


def _cause(status: dict[str, Any]) -> str:
    if status["state"] not in ("failed", "cancelled"):
        return ""
    return f": {status['pilot_error_diag']} (code {status['pilot_error_code']}, exit code {status['exit_code']})"
