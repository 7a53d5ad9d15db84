"""The route of one job: plan -> stage in -> execute -> stage out -> log -> final.

`run_job` is the whole of it. Each step takes values and gives back a new one, or raises; an error is caught
in one place, `_steps`, where it becomes the first cause of the failure. What comes after it, the log and
the final, has time of its own. What the world can see is in the journal before it is done and after:
`pilot.runner.recovery` walks the rest of the route from there, when this process is no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any

from pilot import __version__
from pilot.panda.report import Followed
from pilot.resources.probe import Resources
from pilot.runner import past, telling
from pilot.runner.area import JobArea
from pilot.runner.execution import execute, judge
from pilot.runner.hpo.metrics import with_metrics
from pilot.runner.inputs import check_inputs, disk_room, stage_in
from pilot.runner.inspection import Inspector
from pilot.runner.joblog import job_log
from pilot.runner.journal import Kind
from pilot.runner.lastfile import store_log, vias_of
from pilot.runner.lease import confirm
from pilot.runner.lending import Lent, lend
from pilot.runner.outputs import stage_out
from pilot.runner.past import Destinations
from pilot.runner.pod import Pod, Stopwatch
from pilot.runner.refusal import refuse
from pilot.runner.reporting import deliver
from pilot.runner.secrecy import hide
from pilot.staging.planning.plan import Trust, make_plan
from pilot.values.errors import BadJob, InternalError, JobError, JournalBroken, NoWorkDirectory, SiteError
from pilot.values.events import events
from pilot.values.job import Job
from pilot.values.names import Lfn
from pilot.values.outcome import Outcome, PayloadEnd, Phase, State, StoredFile
from pilot.values.site import overwritten
from pilot.values.stop import Stop
from pilot.values.usage import Usage

log = events(__name__)


def run_job(job: Job, resources: Resources, pod: Pod) -> bool:
    """Take one job from its definition to its one final; whether the server has it."""
    began = pod.clock.now()
    area = JobArea.choose(pod.work, job.id, job.attempt)
    identity = telling.identity(job.id, job.attempt, pod.settings, pod.site.queue, __version__)
    try:
        pod.journal.must(Kind.TAKEN, job=job.id, attempt=job.attempt, identity=identity, **past.taken(job, area))
        area.made()
    except (JournalBroken, NoWorkDirectory) as error:
        refuse(job.id, job.attempt, error, pod)
        raise SiteError(str(error)) from error
    with area, Inspector(area) as inspector, job_log(area.log, pod.redactor), Stop(pod.stop) as stop:
        hide(job, area, pod.redactor)
        log.info("job acquired", job=job.id, attempt=job.attempt, area=area.root)
        pod.reporter.follow(_followed(job, identity, stop, inspector, pod))
        pod.reporter.phase(telling.phase(State.STARTING, Phase.STARTING, began))

        watch = Stopwatch(pod.clock)
        reached = _steps(job, resources, pod, area, stop, watch, began)
        return end_job(job, reached, began, watch, resources, pod, area)


def end_job(
    job: Job, reached: Reached, began: datetime, watch: Stopwatch, resources: Resources, pod: Pod, area: JobArea
) -> bool:
    """The log and the one final of a job, however far its steps came; whether the server has it."""
    outcome = Outcome(
        reached.cause,
        reached.payload,
        reached.stored,
        began,
        pod.clock.now(),
        watch.seconds,
        area.stderr_line(),
        usage=reached.usage,
    )
    log_lfn = job.log.lfn if job.log is not None else None
    ways = reached.destinations.get(log_lfn, ()) if log_lfn is not None else ()
    outcome = store_log(job, outcome, ways, pod, area, begun=log_lfn in reached.begun)
    delivered = deliver(job, outcome, resources, pod)
    if delivered:
        pod.clear(area)
    return delivered


def _followed(job: Job, identity: Mapping[str, Any], stop: Stop, inspector: Inspector, pod: Pod) -> Followed:
    """What the server's commands can do to this job."""
    return Followed(identity, stop, pod.drain.request, inspector.look, pod.redactor.learn_of_job, job.debug)


def _seen_by(job: Job, pod: Pod) -> Pod:
    """The pod with queue and storage data as this job's parameters overwrite them. Raises BadJob."""
    if not job.overwrite_queue and not job.overwrite_storages:
        return pod
    try:
        return replace(pod, site=overwritten(pod.site, job.overwrite_queue, job.overwrite_storages))
    except SiteError as error:
        raise BadJob("jobPars", str(error)) from None


@dataclass(frozen=True, slots=True)
class Reached:
    """How far the steps came; ``cause`` is why not further. An earlier life has ``begun`` to store these files."""

    cause: JobError | None = None
    payload: PayloadEnd | None = None
    stored: tuple[StoredFile, ...] = ()
    destinations: Destinations = field(default_factory=lambda: MappingProxyType({}))
    usage: Usage | None = None
    begun: frozenset[Lfn] = frozenset()


def _steps(
    job: Job, resources: Resources, pod: Pod, area: JobArea, stop: Stop, watch: Stopwatch, began: datetime
) -> Reached:
    """From the plan to the stored outputs. The first error ends the steps."""
    reached = Reached()
    try:
        own_site, pod = pod.site, _seen_by(job, pod)
        check_inputs(job, pod)
        lent = lend(job, resources, pod, area, stop)
        trust = Trust(pod.settings.input_roots, pod.settings.transform_urls)
        plan = make_plan(job, pod.site, area.work, trust, vias_of(pod))
        reached = replace(reached, destinations=plan.destinations)
        pod.journal.must(
            Kind.PLANNED,
            destinations=past.destinations_json(plan.destinations),
            trusted=past.trusted(plan.destinations, own_site),
        )
        pod.lanes.warm(plan.urls)
        with watch.phase(Phase.STAGE_IN):
            pod.reporter.note(telling.phase(State.STARTING, Phase.STAGE_IN, began))
            stage_in(job, plan, pod, area, stop, disk_room(job, resources))
        with watch.phase(Phase.PAYLOAD):
            pod.reporter.phase(telling.phase(State.RUNNING, Phase.PAYLOAD, began))
            tell = partial(_tell, job, lent, resources, pod, began)
            reached = replace(reached, payload=_payload(job, lent, tell, pod, area, stop))
        judge(reached.payload, area, stop)
        if reached.payload is not None and reached.payload.points is not None:
            job, destinations = with_metrics(job, plan.destinations, reached.payload.points.metrics, pod)
            reached = replace(reached, destinations=destinations)
        with watch.phase(Phase.STAGE_OUT):
            pod.reporter.note(telling.phase(State.RUNNING, Phase.STAGE_OUT, began))
            confirm(job, pod, stop)
            reached = replace(reached, stored=stage_out(job, reached.destinations, (), pod, area, stop))
    except Exception as error:  # noqa: BLE001 - a fault of ours must not cost the job its final (promise P1)
        if stop.reason is not None:
            pod.journal.write(Kind.STOP, reason=stop.reason)
        reached = replace(reached, cause=cause_of(error))
    return reached


def _payload(job: Job, lent: Lent, tell: Callable[[Usage], None], pod: Pod, area: JobArea, stop: Stop) -> PayloadEnd:
    """The payload's step, which is another one for a hyper-parameter job."""
    if job.hpo is None:
        return execute(job, lent, tell, pod, area, stop)
    from pilot.runner.hpo.evaluate import evaluate  # noqa: PLC0415 - a tenth of a start that other jobs need not wait for

    return evaluate(job, job.hpo, lent, tell, pod, area, stop)


def _tell(job: Job, lent: Lent, resources: Resources, pod: Pod, began: datetime, usage: Usage) -> None:
    """What the payload uses, for the next heartbeat."""
    update = telling.phase(State.RUNNING, Phase.PAYLOAD, began)
    pod.reporter.note({**update, **telling.used(usage, job.cores, resources.cpu, [gpu.name for gpu in lent.gpus])})


def cause_of(error: Exception) -> JobError:
    """The error as the first cause of a job's failure."""
    if isinstance(error, JobError):
        log.error("the job fails", code=error.code, why=str(error))
        return error
    log.crash("the pilot failed", error)
    return InternalError(f"the pilot failed: {type(error).__name__}: {error}")
