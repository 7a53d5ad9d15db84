"""The end of the point loop: evaluations that still run are stopped, their checkpoints saved, all losses told.

After a stop this has its shares of the grace period (hpo-contract.md 10.5): evaluations may obey, then what is left
of them is killed, then checkpoints and losses go out together. Events of points without a loss are left open: the
server gives them to others when the job has its final.
"""

from __future__ import annotations

import math
import select
import signal

from pilot.payload.process import PayloadProcess
from pilot.payload.sidecar import SidecarEvaluation
from pilot.runner.hpo.book import Tally
from pilot.runner.hpo.crew import Crew, Evaluation
from pilot.runner.hpo.loop import PointLoop
from pilot.runner.hpo.service import PointService
from pilot.runner.hpo.verdict import Kind
from pilot.runner.journal import Kind as Record
from pilot.runner.pod import Pod
from pilot.values.deadline import Deadline
from pilot.values.events import events
from pilot.values.hpo import PointWork
from pilot.values.stop import Stop

log = events(__name__)

_SOFT_S = 10.0
_SAVE_S = 120.0  # for checkpoints and losses where no grace period is running out, and evaluations were stopped
_STRAYS_S = 5.0
_LEFTOVERS_S = 0.5


def wind_up(
    loop: PointLoop, crew: Crew, service: PointService, asked: PointWork, tally: Tally, pod: Pod, stop: Stop
) -> None:
    """Nothing runs any more, and whoever is to hear of a point has heard, as far as there is time."""
    stopped = bool(crew.running)
    if stop.reason is not None:
        pod.journal.write(Record.STOP, reason=stop.reason)
    if stopped:
        log.warning("stopping the evaluations", why=stop.reason, count=len(crew.running))
        _let_obey(crew, pod)
        interrupted = _end_all(loop, crew)
        if asked.checkpoints is not None:
            limit = pod.share("outputs", _SAVE_S)
            for evaluation in interrupted:
                service.save(evaluation.lease, evaluation.folder.open_work, loop.digest(evaluation), limit)
    limit = pod.share("outputs", _STRAYS_S).sooner(Deadline.after(_STRAYS_S))
    with pod.watchdog.waiting(limit):
        leftovers, survivors = crew.strays.sweep(limit, _LEFTOVERS_S)
    if leftovers:
        log.warning("ended what evaluations have left behind", leftovers=leftovers, survivors=len(survivors))
    hopeless = stopped or tally.refused != ""
    _await_service(loop, service, pod, stop, _SAVE_S if hopeless else pod.settings.patience)


def _let_obey(crew: Crew, pod: Pod) -> None:
    """Tell them all, and wait until they have ended, or their share is over."""
    for evaluation in crew.running.values():
        evaluation.folder.ask_to_stop()
        evaluation.process.tell(signal.Signals[pod.settings.soft_signal])
    soft = pod.share("payload", _SOFT_S)
    with pod.watchdog.waiting(soft):
        while not soft.expired() and pod.hurry.reason is None:
            # looked at once: one that has ended since then is among those that are waited for, and wakes at once
            running = [one.process for one in crew.running.values() if not one.process.ended()]
            if not running:
                return
            poll = select.poll()
            poll.register(pod.hurry, select.POLLIN)
            for process in running:
                if isinstance(process, PayloadProcess):
                    poll.register(process, select.POLLIN)
            # what else is due of them waits: nobody looks at it here
            pauses = [process.due() for process in running if isinstance(process, SidecarEvaluation)]
            poll.poll(math.ceil(1000 * min([soft.left(), *pauses])))


def _end_all(loop: PointLoop, crew: Crew) -> list[Evaluation]:
    """Kill what is left; those that have no loss."""
    interrupted = []
    for evaluation in crew.running.values():
        evaluation.process.tell(signal.SIGKILL)
    for evaluation in tuple(crew.running.values()):
        crew.kill(evaluation)
        if loop.end(evaluation, killed=True).kind is not Kind.MEASURED:
            interrupted.append(evaluation)
    return interrupted


def _await_service(loop: PointLoop, service: PointService, pod: Pod, stop: Stop, otherwise_s: float) -> None:
    """Until all is told. A stop, before or meanwhile, shortens that, and a second one more."""
    for waker in (stop, pod.hurry, None):
        if waker is not None and waker.reason is not None:
            continue
        limit = pod.share("save", otherwise_s)
        with pod.watchdog.waiting(limit):
            done = service.finish(limit, *([waker] if waker is not None else []))
        loop.listen()
        if done or limit.expired():
            return
