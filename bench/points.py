"""Hyper-parameter points: 8 slots of a pod with 8 (fake) GPUs against one, with fast and with slow answers.

An evaluation sleeps for a second, so that eight of them fit on any machine; figures are ratios of one run. Times come
from the pilot's own log, requests from the server's record.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import requests

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the tests' NVML library

from tests.contract.nvml.fake_nvml import FakeNvml, compile_library, missing

SECOND = 'sleep 1; echo \'{"status": 0, "loss": 0.5}\' > output.json'
GPUS = "driver 550.90.07\ncuda 12040\n" + "".join(
    f"gpu GPU-{n}{n}{n}{n}{n}{n}{n}{n}-aaaa-4000-8000-00000000000{n} 81559 4\n" for n in range(8)
)
SLOW = [
    {"match": path, "do": "delay", "seconds": 0.15, "count": None}
    for path in ("/idds/", "/api/v1/event", "/api/v1/pilot")
]


class Study:
    """One study on a server of its own, evaluated by one pilot."""

    def __init__(self, folder: Path, gpus: FakeNvml, *, slots: int, points: int, slow: bool) -> None:
        arguments = [sys.executable, "-m", "pilot", "serve", "--port", "0", "--data", str(folder / "data")]
        self._server = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert self._server.stdout is not None
        self._url = self._server.stdout.readline().split()[1]
        self._token = (folder / "data/local_token").read_text().strip()
        self._points = points
        study = {
            "study": "sleepers",
            "max_points": points,
            "search_space": {"x": {"method": "uniform", "dimension": {"low": 0.0, "high": 1.0}}},
            "steering": {"builtin": "random", "seed": 1},
            "evaluation": {"exec": SECOND},
        }
        self._call("POST", "/local/studies", {"study": study, "archive": "", "inputs": [], "queue": "LOCAL"})
        if slow:
            self._call("POST", "/local/faults", SLOW)
        self.log = folder / "pilot.log"
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(gpus.folder),
            "PILOT_SLOTS": str(slots),
            **dict.fromkeys(("PILOT_LINGER", "PILOT_STEERING_WAIT"), "0"),
            "PILOT_LOG_FORMAT": "json",
        }
        command = [sys.executable, "-m", "pilot", "run", "--server", self._url, "--max-jobs", "1", "--idle", "1"]
        with self.log.open("w") as out:
            subprocess.run([*command, "--work", str(folder / "work")], env=environment, stdout=out, check=True)
        self.events = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        self.requests = [
            one["path"].partition("?")[0]
            for one in self._call("GET", "/local/requests")["requests"]
            if one["path"].startswith(("/idds/", "/api/v1/event"))
        ]
        self._server.terminate()
        self._server.wait()

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}"}
        answer = requests.request(method, self._url + path, json=body, headers=headers, timeout=30)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def _times(self, event: str) -> dict[int, list[float]]:
        """When it happened, by slot."""
        found: dict[int, list[float]] = defaultdict(list)
        for one in self.events:
            if one.get("event") == event:
                found[one["slot"]].append(float(one["time"]))
        return found

    @property
    def per_second(self) -> float:
        """Points in a second, from the first start to the last end."""
        starts = [moment for slot in self._times("evaluation started").values() for moment in slot]
        ends = [moment for slot in self._times("evaluation ended").values() for moment in slot]
        assert len(ends) == self._points, f"{len(ends)} of {self._points} points were evaluated"
        return len(ends) / (max(ends) - min(starts))

    @property
    def gap_s(self) -> float:
        """Median time between one evaluation's end and the next one's start in a slot."""
        starts, ends = self._times("evaluation started"), self._times("evaluation ended")
        gaps = [start - end for slot in ends for end, start in zip(ends[slot], starts[slot][1:], strict=False)]
        return statistics.median(gaps)

    @property
    def requests_per_point(self) -> float:
        """Calls to iDDS and the event API."""
        return len(self.requests) / self._points


def points(turns: int = 1) -> list[tuple[str, str]]:
    """Rows of a table."""
    if reason := missing():
        return [("points", f"not measured: {reason}")]
    rows = []
    for turn in range(turns):
        with tempfile.TemporaryDirectory(prefix="bench-points-") as name:
            folder = Path(name)
            gpus = FakeNvml(compile_library(folder), folder / "lib", GPUS)

            def study(label: str, *, slots: int, points: int, slow: bool) -> Study:
                (folder / label).mkdir()  # noqa: B023 - called in this turn only
                return Study(folder / label, gpus, slots=slots, points=points, slow=slow)  # noqa: B023

            one = study("one", slots=1, points=8, slow=False)
            eight = study("eight", slots=8, points=48, slow=False)
            slow_one = study("slow-one", slots=1, points=8, slow=True)
            slow = study("slow", slots=8, points=48, slow=True)
            rows += [
                (f"turn {turn + 1}: 8 slots / one", f"{eight.per_second / one.per_second:.2f}"),
                (
                    "  gap between evaluations, one slot and eight",
                    f"{one.gap_s * 1000:.0f} ms, {eight.gap_s * 1000:.0f} ms",
                ),
                ("  requests per point", f"{one.requests_per_point:.1f}, {eight.requests_per_point:.1f}"),
                ("  with 150 ms more per answer: 8 slots / one without", f"{slow.per_second / one.per_second:.2f}"),
                ("  the same / one slot with them as well", f"{slow.per_second / slow_one.per_second:.2f}"),
                ("  gap between evaluations", f"{slow_one.gap_s * 1000:.0f} ms, {slow.gap_s * 1000:.0f} ms"),
                ("  requests per point", f"{slow_one.requests_per_point:.1f}, {slow.requests_per_point:.1f}"),
            ]
    return rows


if __name__ == "__main__":
    for name, value in points(int(sys.argv[1]) if len(sys.argv) > 1 else 1):
        print(f"{name:<60} {value}")
