"""What a pilot costs: figures of the null job, taken side by side in one run, as a table and in results.json.

The payload is ``date +%s.%N``: it does nothing, and tells when it did. Times of requests are those of the
embedded server. Absolute times depend on the machine: compare rows of one run, not runs.
"""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import requests
from moving import figures, missing, show
from points import points
from sleeping import sleeping

RUNS = 10
JOBS = 100
COMMAND = "date +%s.%N"
PEER = [  # facts: PanDA Pilot 3.11.5.1 on two cores, generic plug-in, a fake server with TLS on loopback, mv copy tool
    ("process start to acquire request", "0.81 s (of it 0.5 s sleep)"),
    ("acquire answer to payload start", "0.073 s (one job), 0.30-0.38 s (20 in a row)"),
    ("payload exit to final arrives", "2.03 s (one job), 3.5-3.7 s (20 in a row)"),
    ("final answered to process exit", "63.9 s"),
    ("CPU seconds, children included", "0.65 s"),
    ("peak RSS of the pilot", "37.8 MB"),
    ("threads", "19"),
    ("processes started", "19 (35 execs)"),
    ("null jobs per hour in one pilot", "599-690"),
]


class Server:
    """A `pilot serve` process, and what it has recorded."""

    def __init__(self, data: Path) -> None:
        arguments = [sys.executable, "-m", "pilot", "serve", "--port", "0", "--data", str(data)]
        self._process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[1]
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["Authorization"] = f"Bearer {(data / 'local_token').read_text().strip()}"

    def get(self, path: str) -> Any:
        """A JSON document of the server."""
        return self._session.get(self.url + path, timeout=30).json()

    def bytes(self, url: str) -> bytes:
        """A stored file."""
        return self._session.get(url, timeout=30).content

    def submit(self, command: str) -> int:
        """A job without files; its id."""
        definition = {"definition": {"command": command, "outputs": []}}
        return int(self._session.post(f"{self.url}/local/jobs", json=definition, timeout=30).json()["id"])

    def close(self) -> None:
        """End it."""
        self._session.close()
        self._process.terminate()
        self._process.wait()


class Watched:
    """A process, watched from outside: peak RSS of it and of its tree, threads; CPU when it has ended."""

    def __init__(self, arguments: list[str]) -> None:
        self.started = time.time()
        self.process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        self.rss = self.tree_rss = self.threads = 0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        process = psutil.Process(self.process.pid)
        while True:
            try:
                own = process.memory_info().rss
                tree = sum(_rss(child) for child in process.children(recursive=True))
                self.threads = max(self.threads, process.num_threads())
            except psutil.Error:
                return
            self.rss, self.tree_rss = max(self.rss, own), max(self.tree_rss, own + tree)
            time.sleep(0.02)

    def wait(self) -> tuple[int, float]:
        """Exit code, and CPU seconds of it and its waited-for children."""
        _, status, usage = os.wait4(self.process.pid, 0)
        self.ended = time.time()
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self._thread.join()
        return self.process.returncode, usage.ru_utime + usage.ru_stime


def _rss(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def pilot(server: Server, work: Path, jobs: int) -> list[str]:
    """The command line of a pilot."""
    arguments = [sys.executable, "-m", "pilot", "run", "--server", server.url, "--work", str(work)]
    return [*arguments, "--max-jobs", str(jobs)]


def null_job(server: Server, work: Path) -> dict[str, float]:
    """One pilot, one null job: where the time goes."""
    job = server.submit(COMMAND)
    watched = Watched(pilot(server, work, 1))
    code, cpu = watched.wait()
    assert code == 0, f"pilot run left with {code}"
    calls = server.get(f"/local/requests?job={job}")["requests"]
    everything = [one for one in server.get("/local/requests")["requests"] if "/cache/schedconfig" in one["path"]]
    acquire = next(one for one in calls if one["path"].endswith("acquire_jobs"))
    final = [one for one in calls if one["path"].endswith("update_job")][-1]
    payload = _payload_time(server, job)
    return {
        "process start to first request": _at(everything[-1]) - watched.started,
        "process start to acquire request": _at(acquire) - watched.started,
        "acquire answer to payload start": payload - _at(acquire) - acquire["duration_s"],
        "payload exit to final arrives": _at(final) - payload,
        "final answered to process exit": watched.ended - _at(final) - final["duration_s"],
        "CPU seconds, children included": cpu,
        "peak RSS of the pilot, MiB": watched.rss / 2**20,
        "peak RSS of pilot, lane and payload, MiB": watched.tree_rss / 2**20,
        "threads": watched.threads,
    }


def _at(request: dict[str, Any]) -> float:
    return datetime.fromisoformat(request["time"]).timestamp()


def _payload_time(server: Server, job: int) -> float:
    """When the payload ran, from its standard output in the log tarball."""
    log = server.get(f"/local/jobs/{job}")["log"]
    with tarfile.open(fileobj=io.BytesIO(server.bytes(log))) as tar:
        member = next(one for one in tar if one.name.endswith("payload.stdout"))
        stream = tar.extractfile(member)
        return float(stream.read()) if stream else 0.0


def many_jobs(server: Server, work: Path) -> dict[str, float]:
    """One pilot, a hundred null jobs."""
    for _ in range(JOBS):
        server.submit("true")
    watched = Watched(pilot(server, work, JOBS))
    code, cpu = watched.wait()
    assert code == 0, f"pilot run left with {code}"
    seconds = watched.ended - watched.started
    return {
        "null jobs per hour in one pilot": 3600 * JOBS / seconds,
        "CPU seconds per job": cpu / JOBS,
        f"peak RSS of the pilot after {JOBS} jobs, MiB": watched.rss / 2**20,
    }


def sleeping_payload(server: Server, work: Path) -> dict[str, float]:
    """One pilot, one payload that sleeps for a minute."""
    job = server.submit("sleep 60")
    watched = Watched(pilot(server, work, 1))
    while server.get(f"/local/jobs/{job}")["state"] != "running":
        time.sleep(0.05)
    figures = sleeping(watched.process.pid)
    code, _ = watched.wait()
    assert code == 0, f"pilot run left with {code}"
    return figures


def spawned(server: Server, work: Path) -> float | None:
    """Processes that a pilot starts for one null job, the payload's included; None without strace."""
    if shutil.which("strace") is None:
        return None
    server.submit("true")
    trace = work.parent / "trace"
    command = ["strace", "-f", "-qq", "-e", "trace=execve", "-o", str(trace), *pilot(server, work, 1)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return len(re.findall(r"execve\(.* = 0$", trace.read_text(), re.MULTILINE)) - 1


def command_row(arguments: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a whole command, medians."""
    walls, cpus = [], []
    for _ in range(RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        began = time.monotonic()
        subprocess.run(arguments, check=True)
        walls.append(time.monotonic() - began)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpus.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(walls), statistics.median(cpus)


def main() -> None:
    """Take all figures, print them, and keep them."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="pilot-bench-") as scratch:
        server = Server(Path(scratch) / "data")
        try:
            null_job(server, Path(scratch) / "warm")
            rows = [null_job(server, Path(scratch) / "work") for _ in range(RUNS)]
            for name in rows[0]:
                values = [row[name] for row in rows]
                results[name] = {"median": statistics.median(values), "min": min(values), "max": max(values)}
            results |= {
                name: _single(value) for name, value in sleeping_payload(server, Path(scratch) / "long").items()
            }
            results["processes started"] = _single(spawned(server, Path(scratch) / "traced"))
            results |= {name: _single(value) for name, value in many_jobs(server, Path(scratch) / "many").items()}
        finally:
            server.close()
    for name, arguments in {
        "python -c 'import requests'": [sys.executable, "-c", "import requests"],
        "true": ["true"],
    }.items():
        wall, cpu = command_row(arguments)
        results[f"{name}: wall s"], results[f"{name}: CPU s"] = _single(wall), _single(cpu)
    overhead = results["acquire answer to payload start"]["median"] + results["payload exit to final arrives"]["median"]
    results["overhead of a null job, s"] = _single(overhead)
    results["null job's CPU / import requests' CPU"] = _single(
        results["CPU seconds, children included"]["median"] / results["python -c 'import requests': CPU s"]["median"]
    )
    _print(results)
    if reason := missing():
        print(f"\nnothing was moved: {reason}")
    else:
        print()
        show(moved := figures())
        results |= moved
    print()
    for number, (name, value) in enumerate(points()):
        print(f"{name:<60} {value}")
        results[f"points: {name.strip()}, {number}"] = value
    Path(__file__).with_name("results.json").write_text(json.dumps(results, indent=1) + "\n")


def _single(value: float | None) -> dict[str, float | None]:
    return {"median": value}


def _print(results: dict[str, Any]) -> None:
    shown: Callable[[float | None], str] = lambda value: "-" if value is None else f"{value:.3f}"  # noqa: E731
    print(f"{'figure':<48} {'median':>10} {'min':>9} {'max':>9}")
    for name, row in results.items():
        print(f"{name:<48} {shown(row['median']):>10} {shown(row.get('min')):>9} {shown(row.get('max')):>9}")
    print("\nPanDA Pilot 3.11.5.1, measured elsewhere (2 cores, generic plug-in, TLS on loopback, mv copy tool):")
    for name, figure in PEER:
        print(f"{name:<48} {figure}")


main()
