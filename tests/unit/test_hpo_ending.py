"""A stop of a study: evaluations may obey for their share of the grace period, and nobody waits longer than they do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pilot.files.folder import Folder
from pilot.payload.process import PayloadProcess
from pilot.runner.hpo.book import Tally
from pilot.runner.hpo.ending import wind_up
from pilot.runner.hpo.verdict import Kind, Verdict
from pilot.values.deadline import Budget, Deadline
from pilot.values.stop import Reason
from tests.lab import until
from tests.pods import a_pod

GRACE_S = 25.0
SHARE_S = Budget.of(GRACE_S).payload_s
"""What evaluations have of it: 8 s."""


class EndsBetweenLooks(PayloadProcess):
    """Ends right after it was seen running for the first time."""

    seen = 0

    def ended(self) -> bool:
        before = super().ended()
        self.seen += 1
        if self.seen == 1:
            os.kill(self.pid, signal.SIGKILL)
            self.wait(Deadline.after(10))
        return before


class Crew:
    """Evaluations that run."""

    def __init__(self, processes: list[PayloadProcess]) -> None:
        told = SimpleNamespace(ask_to_stop=lambda: None)
        self.running = {n: SimpleNamespace(process=one, folder=told) for n, one in enumerate(processes)}
        self.strays = SimpleNamespace(sweep=lambda *_: (0, []))

    def descriptors(self) -> list[PayloadProcess]:
        return [one.process for one in self.running.values()]

    def due(self) -> Deadline:
        return Deadline.never()

    def kill(self, evaluation: Any) -> None:
        evaluation.process.kill()


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Any]:
    processes: list[PayloadProcess] = []

    def start(kind: type[PayloadProcess], command: str) -> PayloadProcess:
        (tmp_path / "out").mkdir(exist_ok=True)
        with Folder.at(tmp_path / "out") as folder:
            out, err = folder.create(f"out{len(processes)}"), folder.create(f"err{len(processes)}")
        ours = tuple(one.pid for one in processes)
        mark, ready = f"m{len(processes)}", tmp_path / f"ready{len(processes)}"
        text = command.replace("READY", f"touch {ready}")
        processes.append(kind(text, tmp_path, dict(os.environ), out, err, mark=mark, ours=lambda: ours, alone=False))
        until(ready.exists)
        return processes[-1]

    yield start
    for one in processes:
        one.kill()
        one.collect(Deadline.after(10))


def stopped_in(processes: list[PayloadProcess], folder: Path, grace_s: float = GRACE_S) -> float:
    """Seconds until a stop has been obeyed by all of them."""
    loop = SimpleNamespace(end=lambda *_a, **_k: Verdict(Kind.STOPPED), listen=lambda: None)
    service = SimpleNamespace(finish=lambda *_: True)
    asked = SimpleNamespace(checkpoints=None)
    with a_pod(folder, grace=grace_s) as pod:
        pod.stop.request(Reason.SIGTERM)
        began = time.monotonic()
        wind_up(loop, Crew(processes), service, asked, Tally(), pod, pod.stop)  # type: ignore[arg-type]
        return time.monotonic() - began


@pytest.mark.parametrize("count", [1, 2, 3])
def test_evaluations_that_end_between_two_looks_are_waited_for_no_longer(count, started, tmp_path):
    processes = [started(EndsBetweenLooks, "trap '' TERM; READY; while :; do sleep 0.1; done") for _ in range(count)]

    assert stopped_in(processes, tmp_path) < SHARE_S / 2


def test_evaluations_that_obey_are_waited_for_until_the_last_has_ended(started, tmp_path):
    quick = started(PayloadProcess, "READY; exec sleep 60")
    slow = started(PayloadProcess, "trap 'sleep 0.5; exit 0' TERM; READY; while :; do sleep 0.1; done")

    assert stopped_in([quick, slow], tmp_path) < SHARE_S / 2


def test_an_evaluation_that_does_not_obey_has_its_share(started, tmp_path):
    deaf = started(PayloadProcess, "trap '' TERM; READY; while :; do sleep 0.1; done")

    assert stopped_in([deaf], tmp_path, grace_s=5.0) > Budget.of(5.0).payload_s - 0.2
