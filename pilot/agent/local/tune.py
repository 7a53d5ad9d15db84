"""What `pilot tune` does: a server, a study, pilots until it has ended, and what came out of it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pilot.agent import configuration
from pilot.agent.local.api import LocalServer
from pilot.agent.local.board import WIDTH, end_lines
from pilot.agent.local.children import embedded_server
from pilot.agent.local.outfolder import OutFolder
from pilot.agent.local.page import page
from pilot.agent.local.results import read_results, write, write_json
from pilot.agent.local.studyfile import StudyFile, read_study_file
from pilot.agent.local.timeline import Timeline
from pilot.agent.local.tunewatch import spectator
from pilot.agent.local.tuning import LEASE_S, STOPPED, Tuning
from pilot.agent.saying import say, say_json
from pilot.values.printable import line
from pilot.values.study import parse_study

_PREDECESSOR_S = 40.0  # for what an earlier run has left to save what it can
_PORT_S = 15.0
_INTERRUPTED = 130


def tune_study(file: Path, out: Path | None, *, as_json: bool) -> int:
    """Run the study in ``file`` to its end: 0 if it has finished, 1 if it failed, 130 if stopped. Raises PilotError."""
    root = (out or Path(f"{_name(file)}-out")).absolute()
    given = read_study_file(file, leave_out=root)
    folder = OutFolder(root)
    with folder.taken(), _terminated_like_ctrl_c():
        found = _finished_before(folder, given)
        if found is None:
            found = _tune(folder, given, quiet=as_json)
        if not folder.page.exists() or found.pop("new", False):
            write(folder.page, page(found))
    _print(found, folder, file, as_json=as_json)
    return {"finished": 0, STOPPED: _INTERRUPTED}.get(found["state"], 1)


def _name(file: Path) -> str:
    return read_study_file(file).study.study


def _finished_before(folder: OutFolder, given: StudyFile) -> dict[str, Any] | None:
    """The results of the same study, if it has finished here."""
    found = read_results(folder.results)
    if found is None or found.get("state") != "finished":
        return None
    try:
        return found if parse_study(found.get("study")) == given.study else None
    except ValueError:
        return None


def _tune(folder: OutFolder, given: StudyFile, *, quiet: bool) -> dict[str, Any]:
    """Server, submission, pilots, results."""
    environment = configuration.without_settings()
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment.get('PATH', '/usr/bin:/bin')}"
    timeline = Timeline(folder.log)
    with spectator(quiet=quiet) as watching:
        folder.await_server(_PREDECESSOR_S, watching.say)
        with (
            embedded_server(folder.serve, environment, "--lease", str(LEASE_S), port=folder.await_port(_PORT_S)) as url,
            LocalServer(url, folder.serve) as api,
        ):
            folder.keep_port(urlsplit(url).port or 0)
            if given.archive:
                api.keep(given.archive, given.sandbox)
            task = api.submit_study({**given.in_place(), "queue": "LOCAL"})
            folder.await_pilot(_PREDECESSOR_S, watching.say)
            return _to_the_end(Tuning(api, task, given, folder, timeline, watching, environment), folder)


def _to_the_end(tuning: Tuning, folder: OutFolder) -> dict[str, Any]:
    state, why = tuning.run()
    found = tuning.results(state, why)
    write_json(folder.results, found)
    return {**found, "new": True}


@contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """A TERM or a closed terminal shall stop the pilot in order, too."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print(found: dict[str, Any], folder: OutFolder, file: Path, *, as_json: bool) -> None:
    if as_json:
        keys = ("name", "task", "state", "why", "best", "evaluated", "failed", "pruned", "seconds")
        places = {"results": str(folder.results), "page": str(folder.page)}
        say_json({**{key: found.get(key) for key in keys}, **places})
        return
    say("\n".join(end_lines(found, WIDTH)))
    say(f"\nresults  {folder.results}\npage     {folder.page}")
    done = f"{found['evaluated']} points evaluated, {found['failed']} failed, in {found['seconds']:.1f} s"
    say(line(f"{found['state']}: {found['why'] or done}"))
    if found["state"] == STOPPED:
        out = "" if folder.root == Path(f"{found['name']}-out").absolute() else f" --out {folder.root}"
        say(f"to go on: pilot tune {file}{out}")
