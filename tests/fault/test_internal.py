"""A fault of the pilot itself costs a job, but not its final."""

import random
import time

from pilot.net.credentials import CredentialFiles, Credentials
from pilot.net.transport import Transport
from pilot.panda.client import PandaClient
from pilot.panda.report import Pace
from pilot.panda.reporter import Reporter
from pilot.panda.wire import Wire
from pilot.resources.probe import probe
from pilot.runner.journal import Journal
from pilot.runner.pod import Pod
from pilot.runner.runner import run_job
from pilot.runner.watchdog import Watchdog
from pilot.values.deadline import REAL_CLOCK, Deadline
from pilot.values.events import Redactor
from pilot.values.job import Job
from pilot.values.settings import Settings
from pilot.values.site import Queue, Site
from pilot.values.stop import Drain, Stop
from tests.lab import Serve


class BrokenLanes:
    """Lanes with a bug that nobody has thought of."""

    def warm(self, _urls):
        raise ZeroDivisionError("a bug")

    def close(self):
        """Nothing to close."""


def test_an_unexpected_exception_is_reported_as_the_pilots_fault(tmp_path):
    server = Serve(tmp_path / "data")
    reporter = Reporter(
        PandaClient(Wire(Transport(server.url), server.url, "test")), pace=Pace(300, 60), rng=random.Random(1)
    )
    reporter.start()
    try:
        job_id = server.submit(command="true")
        site = Site(Queue("LOCAL", "LOCAL"), {})
        work = tmp_path / "work"
        work.mkdir()
        with Stop() as stop, Stop() as hurry, Journal.open(work) as journal:
            pod = Pod(
                settings=Settings(),
                site=site,
                work=work,
                journal=journal,
                watchdog=Watchdog(300, 30, work / "pilot.log", arrivals=-1, stop=stop),
                credentials=Credentials(CredentialFiles(), lambda _: None, time.time),
                reporter=reporter,
                lanes=BrokenLanes(),
                clock=REAL_CLOCK,
                redactor=Redactor(),
                stop=stop,
                hurry=hurry,
                drain=Drain(),
                deadline=Deadline.never(),
                inherited={},
            )
            assert run_job(Job(id=job_id, attempt=1, command="true"), probe(work), pod)
        status = server.ended(job_id)
        assert (status["state"], status["pilot_error_code"]) == ("failed", 1319)
        assert "ZeroDivisionError" in status["pilot_error_diag"]
    finally:
        reporter.finish(Deadline.after(10))
        server.stop()
