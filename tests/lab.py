"""The parts that end-to-end tests are made of: `pilot serve` and `pilot run` as processes, and a look at both.

Every server is checked when it is stopped (tests/checker.py): a run that broke a promise fails its test. A test that
breaks one on purpose says so: `Serve.abandon` for jobs whose pilot it kills, `Serve.checked = False` for the rest.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import requests

from tests.checker import examine
from tests.facts import Facts, Pilot, left_running, process
from tests.local import LocalToken, local_token

DEADLINE_S = 60.0
_BURIED_S = 1.0
_RUNS: list["Run"] = []
"""The pilots that were started and not yet checked."""


def until(look, seconds=DEADLINE_S, what="condition"):
    """Ask ``look`` until it answers something true; fail with what was asked for when time is over."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come within {seconds:g} s")
        time.sleep(0.01)
    return found


class Serve:
    """A `pilot serve` process; it can be killed and started again on the same port and data.

    What the checker shall know besides the pilots that are a `Run`: ``pilots``, ``survivors`` and ``innocents`` (see
    `innocent`), ``runs_file``, ``slots``, and ``listers`` for storages other than the server's own (tests/facts.py).
    """

    def __init__(self, data: Path, port: int = 0, *arguments, verify=True):
        self.data = data
        self.arguments = arguments
        self.port = port
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = verify
        self.session.auth = LocalToken(lambda: local_token(data))
        self.process = None
        self.checked = True
        self.abandoned = set()
        self.pilots, self.survivors, self.innocents, self.listers = [], [], [], []
        self.runs_file = self.slots = None
        self.start()

    def start(self):
        arguments = [
            sys.executable,
            "-m",
            "pilot",
            "serve",
            "--port",
            str(self.port),
            "--data",
            str(self.data),
            *self.arguments,
        ]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        ready, _, _ = select.select([self.process.stdout], [], [], DEADLINE_S)
        line = self.process.stdout.readline() if ready else ""
        assert line.startswith("ready http"), line
        self.url = line.split()[1]
        self.port = int(self.url.rsplit(":", 1)[1])

    def stop(self, number=signal.SIGTERM):
        """End the server; before, the run is checked. A kill checks nothing: it is not the end of a run."""
        try:
            if self.checked and number != signal.SIGKILL and self.process.poll() is None:
                self.check()
        finally:
            if self.process.poll() is None:
                self.process.send_signal(number)
                self.process.wait(DEADLINE_S)
            self.process.stdout.close()
            self.session.close()
            if number != signal.SIGKILL:
                _RUNS[:] = [one for one in _RUNS if not one.asks(self.url)]

    def check(self):
        """Fail with the promises that were broken until now."""
        self.faults()
        report = examine(self.url, self.facts(), data=self.data, session=self.session)
        assert not report.violations, "\n".join(["promises were broken:", *map(str, report.violations), report.summary])

    def facts(self):
        """What was seen of the pilots that were started against this server."""
        runs = [one for one in _RUNS if one.asks(self.url)]
        return Facts(
            abandoned=frozenset(self.abandoned),
            pilots=(*self.pilots, *(one.seen() for one in runs)),
            slots=self.slots,
            survivors=(*self.survivors, *(left for one in runs for left in one.survivors)),
            innocents=tuple(self.innocents),
            runs_file=self.runs_file,
            listers=tuple(self.listers),
        )

    def abandon(self, *jobs):
        """These jobs need no end: their pilot was killed on purpose, and nothing recovers them."""
        self.abandoned.update(jobs)

    def innocent(self, pid):
        """This process is nobody's payload: it must run still when the server is stopped."""
        self.innocents.append(process(pid))

    def call(self, method, path, **more):
        with self.session.request(method, self.url + path, timeout=30, **more) as answer:
            assert answer.ok, answer.text
            return answer.json() if answer.content else None

    def submit(self, **definition):
        return self.call("POST", "/local/jobs", json={"definition": definition})["id"]

    def submit_panda(self, **definition):
        return self.submit(panda=definition)

    def status(self, job):
        return self.call("GET", f"/local/jobs/{job}")

    def requests(self, job=None):
        return self.call("GET", "/local/requests" + (f"?job={job}" if job else ""))["requests"]

    def calls(self, name, job=None):
        return [one for one in self.requests(job) if one["path"].endswith("/" + name)]

    def finals(self, job):
        """The stored finals: updates with a final state that were answered and not `alreadydone`."""
        return [
            one
            for one in self.status(job)["history"]
            if one["call"] == "update_job" and one["state"] in ("finished", "failed")
        ]

    def faults(self, *rules):
        self.call("POST", "/local/faults", json=list(rules))

    def ended(self, job):
        """The status once the server has its verdict."""
        until(
            lambda: self.status(job)["state"] in ("finished", "failed", "cancelled", "merging"),
            what=f"end of job {job}",
        )
        return self.status(job)

    def store(self, name, content: bytes):
        """Put a file into the server's store; its URL."""
        url = f"{self.url}/store/test/{name}"
        with self.session.put(url, data=content, timeout=30) as answer:
            assert answer.ok, answer.text
        return url

    def fetch(self, url) -> bytes:
        with self.session.get(url, timeout=30) as answer:
            assert answer.ok, answer.text
            return answer.content


class Run:
    """A `pilot run` process in a session of its own."""

    def __init__(self, server, work: Path, *arguments, environment=None, alone=False, command=None):
        """``alone``: the environment holds nothing else; without ``server`` it names server and work itself."""
        self.work = work
        self.log = work.parent / f"{work.name}.log"
        self.errors = work.parent / f"{work.name}.err"
        self.began = time.monotonic()
        self.began_at = time.time()
        self.stop_asked_at = self.gone_at = None
        self.survivors = []
        self.is_pilot = command is None
        self.given = {**(environment or {}), "arguments": f"{server} {' '.join(map(str, arguments))}"}
        self.grace_s = float(self.given.get("PILOT_GRACE_S") or self.given.get("PILOT_GRACE") or 30)
        where = ["--server", server, "--work", str(work)] if server else []
        with self.log.open("w") as out, self.errors.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pilot", *(command or ["run"]), *where, *map(str, arguments)],
                stdout=out,
                stderr=err,
                env={**({} if alone else clean_environment()), **(environment or {})},
                start_new_session=True,
            )
        self.identity = process(self.process.pid)
        descriptor = os.pidfd_open(self.process.pid)
        self._watch = threading.Thread(target=self._note_end, args=(descriptor,), daemon=True)
        self._watch.start()
        if self.is_pilot:
            _RUNS.append(self)

    def _note_end(self, descriptor):
        """The time of the end, however late somebody waits for it."""
        end = select.poll()
        end.register(descriptor, select.POLLIN)
        end.poll()
        self.gone_at = time.time()
        os.close(descriptor)

    def asks(self, url):
        """Whether it was told of this server."""
        return any(url in str(text) for text in self.given.values())

    def seen(self):
        """It as the checker wants to know it."""
        return Pilot(None, self.began_at, self.stop_asked_at, self.gone_at, self.grace_s)

    def says(self, text, seconds=DEADLINE_S):
        """Wait until the log says so."""
        until(lambda: text in self.log.read_text(), seconds, f"{text!r} in the pilot's log")

    def signal(self, number):
        """Send a signal; from the first TERM or INT on it is a stop, which the checker measures."""
        if number in (signal.SIGTERM, signal.SIGINT) and self.stop_asked_at is None:
            self.stop_asked_at = time.time()
        self.process.send_signal(number)

    def wait(self, seconds=DEADLINE_S):
        """The exit code. What a pilot that left by itself has left running is noted for the checker."""
        try:
            code = self.process.wait(seconds)
            self._watch.join()
            if self.is_pilot and code >= 0:
                self.survivors = self._left_running()
            return code
        finally:
            if self.process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def _left_running(self):
        """A killed process may need a moment to be gone."""
        end = time.monotonic() + _BURIED_S
        others = {one.process.pid for one in _RUNS if one is not self and one.gone_at is None}
        while (found := left_running(self.work, self.identity, others)) and time.monotonic() < end:
            time.sleep(0.01)
        return found


@contextlib.contextmanager
def ended_runs():
    """A list for the runs of a test: what is left of them ends with the block."""
    started = []
    try:
        yield started
    finally:
        for one in started:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()


def free_port():
    """A port to be listened on again and again: one that a server picks itself cannot be reused at once."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def clean_environment():
    """The environment without what would set the pilot's settings."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PILOT_", "HARVESTER_", "X509_", "TMPDIR"))
    }


def definition(**fields):
    """A PanDA job definition as the live server sends it: one log, no other files, `true` as its payload."""
    base = {
        "transformation": "true", "jobPars": "", "prodSourceLabel": "managed", "inFiles": "", "GUID": "", "fsize": "",
        "checksum": "", "scopeIn": "", "realDatasetsIn": "", "ddmEndPointIn": "", "outFiles": "the.log.tgz",
        "logFile": "the.log.tgz", "logGUID": "3cdd8c70-e918-497a-a801-32a0bcad7664", "scopeLog": "test",
        "scopeOut": "", "realDatasets": "test:log", "destinationDblock": "test:log", "ddmEndPointOut": "LOCAL_STORE",
        "coreCount": 1, "minRamCount": 0, "maxDiskCount": 0, "maxWalltime": "NULL", "taskID": "NULL", "attemptNr": 1,
    }  # fmt: skip
    return {**base, **fields}


def dump(value):
    """For a test's message."""
    return json.dumps(value, indent=1)[:4000]
