#!/usr/bin/env python3
"""Stands in for the pilots_starter.py that Harvester mounts from its ConfigMap: becomes `pilot run`.

It is run as ``python3 $EXEC_DIR/pilots_starter.py`` in the image of a site, so it needs nothing but Python 3.9. The
pilot reads Harvester's variables itself (docs/settings.md), so none is translated or copied here; arguments are handed
on to `pilot run`. The pilot takes this process over: its exit code is the container's, and the signals are its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

JOB_FILE = "/scratch/jobconfig/pandaJobData.out"
NO_PILOT = 64  # to Harvester: this site cannot run jobs

_IMAGE_PILOT = "/opt/venv/bin/pilot"
_SHELLS = ("sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "busybox")
_TERM_BIT = 1 << 14  # signal 15 in the masks of /proc/PID/status


def main() -> NoReturn:
    """Become the pilot; leave with 64 where there is none."""
    pilot = find_pilot(os.environ)
    if not pilot:
        say(f"there is no pilot: neither on PATH nor as {_IMAGE_PILOT} nor as a module of {sys.executable}")
        sys.exit(NO_PILOT)
    if os.getpid() != 1 and (shell := deaf_shell(Path("/proc/1"))):
        command = json.dumps([sys.executable, os.path.abspath(__file__)])  # noqa: PTH100 - a link stays one
        say(f"PID 1 is {shell}, so no TERM will reach the pilot; put into the Job template: command: {command}")
    sys.stderr.flush()
    arguments = [*pilot, "run", *job_option(os.environ), *sys.argv[1:]]
    os.execv(arguments[0], arguments)  # noqa: S606 - not a child: the signals are to be the pilot's


def find_pilot(environ: Mapping[str, str]) -> list[str]:
    """The words that start the pilot, none where it is not installed."""
    found = shutil.which("pilot", path=environ.get("PATH")) or shutil.which(_IMAGE_PILOT)
    if found:
        return [found]
    module = importlib.util.find_spec("pilot")
    places = (module and module.submodule_search_locations) or ()
    # PanDA Pilot 3 has a package of this name too, but no such module.
    if any(Path(place, "agent", "cli.py").is_file() for place in places):
        return [sys.executable, "-m", "pilot"]
    return []


def job_option(environ: Mapping[str, str]) -> list[str]:
    """In push mode the job lies in a ConfigMap; whatever is not PUSH is a pull, as for Harvester."""
    return ["--job", JOB_FILE] if environ.get("submit_mode") == "PUSH" else []


def deaf_shell(process: Path) -> str:
    """The name of a shell that does not catch TERM, "" if the process is none.

    The kernel drops a signal that PID 1 does not catch, and a shell hands none on to its children.
    """
    try:
        name = (process / "comm").read_text().strip()
        status = (process / "status").read_text()
    except OSError:
        return ""
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return name if name in _SHELLS and not int(caught, 16) & _TERM_BIT else ""


def say(text: str) -> None:
    """One line to the pod's log."""
    sys.stderr.write(f"pilots_starter: {text}\n")


if __name__ == "__main__":
    main()
