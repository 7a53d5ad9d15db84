"""What a pilot works with, made from its settings and ended with it: credentials, reporter, lanes, watchdog."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pilot import __version__
from pilot.agent.configuration import Surroundings
from pilot.agent.scratch import ALIVE_EVERY_S, ALIVE_NAME, CREDENTIALS_NAME, LOG_NAME
from pilot.agent.signals import Asked
from pilot.agent.transfers import credential_rules, lane_settings
from pilot.net.credentials import CredentialFiles, Credentials
from pilot.net.transport import Transport
from pilot.panda.client import PandaClient
from pilot.panda.report import Pace
from pilot.panda.reporter import Reporter
from pilot.panda.upkeep import LogCache, SignOfLife, UploadLog, UploadWholeLog
from pilot.panda.wire import Wire
from pilot.runner.journal import Journal, Kind
from pilot.runner.past import Story
from pilot.runner.pod import Pod
from pilot.runner.watchdog import Watchdog
from pilot.staging.lanes.lanes import Lanes
from pilot.staging.lanes.wallet import Wallet
from pilot.values.deadline import REAL_CLOCK, Deadline
from pilot.values.errors import UsageError
from pilot.values.redaction import Redactor
from pilot.values.settings import Settings
from pilot.values.site import Queue, Site
from pilot.values.stop import share

_LEAVE_S = 5.0  # for the last words to Harvester
_LEAVE_STOPPED_S = 0.2  # where there are none


@contextmanager
def equipped(
    settings: Settings, work: Path, around: Surroundings, redactor: Redactor, asked: Asked, journal: Journal
) -> Iterator[Pod]:
    """A pod whose site is not known yet but for its queue's name, and which has told the journal that it lives."""
    redactor.learn_from(settings.http_proxy)
    credentials = Credentials(_credential_files(settings), redactor.learn, time.time)
    reporter = _reporter(settings, credentials, redactor)
    watchdog = Watchdog(settings.stuck, settings.grace, work / LOG_NAME, arrivals=asked.arrivals, stop=asked.stop)
    watchdog.testament(lambda: journal.write(Kind.STOP, reason=asked.why(watchdog.signal)))
    wallet = Wallet(credential_rules(settings, credentials.certificate), work / CREDENTIALS_NAME, redactor.learn)
    with (
        Lanes(lane_settings(settings), wallet) as lanes,
        watchdog,
        _working(reporter, settings, work, asked),
    ):
        journal.begin(life=f"{os.getpid()}-{time.time():.3f}", pid=os.getpid(), settings=_to_keep(settings))
        yield Pod(
            settings,
            Site(Queue(settings.queue, settings.queue), {}),
            work,
            journal,
            watchdog,
            credentials,
            reporter,
            lanes,
            REAL_CLOCK,
            redactor,
            asked.stop,
            asked.hurry,
            asked.drain,
            Deadline.after(settings.deadline) if settings.deadline else Deadline.never(),
            around.inherited,
            around.visible,
            around.given,
        )


def _to_keep(settings: Settings) -> dict[str, Any]:
    """What a recoverer in another container needs, as far as it was set; a proxy's URL may hold a password."""
    return {
        one.name: getattr(settings, one.name)
        for one in fields(Settings)
        if one.name != "http_proxy" and getattr(settings, one.name) != one.default
    }


def of_this_server(story: Story, settings: Settings) -> Story:
    """The story, if it is of the server that we speak to; else nothing is asked there about a job that has ended.

    Raises UsageError for an open job of another server.
    """
    theirs = str(story.settings.get("server", Settings().server)).rstrip("/")
    if theirs == settings.server.rstrip("/") or not story.life:  # a damaged journal does not tell
        return story
    if story.open is not None:
        raise UsageError(
            f"the scratch directory {settings.work} holds an open job of {theirs[:200]}: "
            f"end it first with `pilot recover --work {settings.work}`, or choose another with --work"
        )
    return replace(story, ended=None)


def _credential_files(settings: Settings) -> CredentialFiles:
    return CredentialFiles(
        token=settings.token,
        token_folders=(settings.token_dir, settings.work),
        token_key=settings.token_key,
        origin=settings.token_origin,
        certificate=settings.certificate,
    )


def _reporter(settings: Settings, credentials: Credentials, redactor: Redactor) -> Reporter:
    transport = Transport(
        settings.server, verify=settings.ca or True, certificate=credentials.certificate, proxy=settings.http_proxy
    )
    wire = Wire(transport, settings.server, __version__, credentials, redactor)
    pace = Pace(settings.heartbeat, min(settings.heartbeat, settings.debug_heartbeat))
    return Reporter(PandaClient(wire), pace=pace)


@contextmanager
def _working(reporter: Reporter, settings: Settings, work: Path, asked: Asked) -> Iterator[None]:
    """The reporter runs, Harvester's record of this worker says so, and our log goes where people look for it."""
    known = (settings.harvester_id, int(settings.worker_id), settings.node) if settings.log_stem else None
    cache = LogCache(settings.log_upload_url, settings.log_stem) if settings.log_upload_url else None
    log_file = work / LOG_NAME
    if known:
        reporter.tell_worker(*known, "started")
    reporter.keep(lambda clock, rng: SignOfLife(clock, rng, work / ALIVE_NAME, ALIVE_EVERY_S))
    if cache:
        reporter.keep(lambda clock, rng: UploadLog(clock, rng, log_file, cache, settings.log_interval))
    reporter.start()
    try:
        yield
    finally:
        stopped = asked.stop.reason is not None
        if stopped:
            reporter.hurry()
        if cache:
            reporter.keep(lambda clock, rng: UploadWholeLog(clock, rng, log_file, cache))
        if known:
            reporter.tell_worker(*known, "finished")
        limit = Deadline.after(_LEAVE_STOPPED_S if stopped and not known else _LEAVE_S)
        reporter.finish(limit.sooner(share("leave", settings.grace, asked.stop, asked.hurry) or limit))
