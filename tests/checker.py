"""What a run broke of the promises P1, P2, P3 and P8, told by the embedded server's history and the files it stored.

The server keeps every request in order, with its answer; the pilot's word is never asked for. What the server
cannot know, such as when a pilot was stopped, comes as `Facts`. `python -m tests.checker --server URL` (or
`--data DIR`) prints one line per violation and a summary; it exits with 0, with 1 if there were violations,
and with 78 if it cannot do its work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests

from pilot.agent import configuration
from pilot.agent.local import servers
from tests.facts import IN_FLIGHT_S, Facts, Lister, Pilot, Stored, facts_of
from tests.history import FINALS, Attempt, History, Request, as_object, decoded, read
from tests.local import LocalToken, local_token

_RANK = {"starting": 0, "running": 1, "transferring": 2}
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_START_S = 30.0
_TIMEOUT_S = 30.0
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was not kept: which one, for which job (None: for none), and by what."""

    promise: str
    job: int | None
    what: str

    def __str__(self) -> str:
        return f"{self.promise}: {self.what}" if self.job is None else f"{self.promise} job {self.job}: {self.what}"


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a check: what was broken, how much was looked at, and the URLs that could not be."""

    violations: list[Violation]
    jobs: int
    finals: int
    outputs: int
    unchecked: list[str]

    @property
    def summary(self) -> str:
        """One line."""
        unchecked = f", {len(self.unchecked)} outputs unchecked" if self.unchecked else ""
        return (
            f"{self.jobs} jobs, {self.finals} finals, {self.outputs} outputs checked{unchecked}, "
            f"{len(self.violations)} violations"
        )


def check(
    server: str, facts: Facts | None = None, *, data: Path | None = None, session: requests.Session | None = None
) -> list[Violation]:
    """What was broken at a running server; ``data``, its directory, makes the look at stored files cheaper."""
    return examine(server, facts, data=data, session=session).violations


def examine(
    server: str,
    facts: Facts | None = None,
    *,
    data: Path | None = None,
    session: requests.Session | None = None,
    moved: bool = False,
) -> Report:
    """The same with all that was counted. ``moved``: the server had another port when the jobs ran."""
    with contextlib.ExitStack() as stack:
        if session is None:
            session = stack.enter_context(requests.Session())
            session.trust_env = False
            session.auth = LocalToken(_token(server, data))
        server = server.rstrip("/")
        return _judge(read(server, session), facts or Facts(), Store(server, session, data, moved))


def _token(server: str, data: Path | None) -> str:
    """The server's local token, as `pilot status` finds it unless the server's directory is known."""
    if data is not None:
        return local_token(data)
    found = servers.known(server, configuration.runtime_places())
    return configuration.local_token() or (found.token if found else "")


def _judge(history: History, facts: Facts, store: Store) -> Report:
    outputs = Outputs(history, facts.listers, store)
    found = [Violation("P1", None, f"an update {one.when} that names no job") for one in history.nameless]
    for one in history.attempts:
        found += [*_finals(one), *_states(one), *_end(one, facts), *_attempt(one), *_words(one), *outputs.of(one)]
    found += [*_slots(history, facts), *_stops(history, facts), *_processes(facts), *_runs(history, facts)]
    found += _losses(history)
    got = [one for one in history.attempts if one.got]
    return Report(
        sorted(found, key=lambda one: (one.promise, one.job or 0)),
        len(got),
        sum(bool(one.finals) for one in got),
        outputs.checked,
        outputs.unchecked,
    )


# P1: one end, in order


def _finals(attempt: Attempt) -> Iterator[Violation]:
    """Two finals that say different things."""
    if not attempt.finals:
        return
    first = attempt.finals[0]
    for other in attempt.finals[1:]:
        differs = [name for name, value in _said(first).items() if value != _said(other)[name]]
        if differs:
            yield Violation(
                "P1",
                attempt.job,
                f"two different finals: {_label(first)} {first.when}, {_label(other)} {other.when}: "
                f"they differ in {', '.join(differs)}",
            )


def _said(final: Request) -> dict[str, Any]:
    """What all finals of an attempt must have in common: a repetition may be reduced to its core, which has these."""
    sent = final.sent
    return {
        "job_status": final.state,
        "pilot_error_code": sent.get("pilot_error_code") or 0,
        "trans_exit_code": sent.get("trans_exit_code"),
        "job_output_report": decoded(sent.get("job_output_report") or ""),
    }


def _label(final: Request) -> str:
    code = final.sent.get("pilot_error_code") or 0
    return f"{final.state}/{code}" if code else final.state


def _states(attempt: Attempt) -> Iterator[Violation]:
    """States that go back, or anything that comes after a final."""
    final, highest = None, None
    for update in attempt.updates:
        if update.state in FINALS:
            final = final or (None if update.refused else update)
        elif final is not None:
            yield Violation(
                "P1", attempt.job, f"{update.state} {update.when} after the final {_label(final)} {final.when}"
            )
        elif highest is not None and _RANK.get(update.state, 0) < _RANK.get(highest.state, 0):
            yield Violation("P1", attempt.job, f"{update.state} {update.when} after {highest.state} {highest.when}")
        else:
            highest = update


def _end(attempt: Attempt, facts: Facts) -> Iterator[Violation]:
    """A job that a pilot got and that has no end, or that the server says to have ended as nobody said."""
    if facts.ended and attempt.got and not attempt.has_ended and attempt.job not in facts.abandoned:
        last = attempt.updates[-1] if attempt.updates else attempt.handed[-1]
        yield Violation(
            "P1", attempt.job, f"no end: the server has it as {attempt.state}, last heard of {last.when}: {last.call}"
        )
    if attempt.state == "finished" and not any(one.state == "finished" for one in attempt.finals):
        yield Violation("P1", attempt.job, "the server has it as finished, but nobody said so")


def _attempt(attempt: Attempt) -> Iterator[Violation]:
    """A job that was handed out twice, is unknown, or has another attempt number at the server."""
    given = [one for one in attempt.handed if not one.lost]
    if len(given) > 1:
        yield Violation("P1", attempt.job, f"handed out twice: {given[0].when}, {given[1].when}")
    if attempt.state is None:
        last = [*attempt.handed, *attempt.updates][-1]
        yield Violation("P1", attempt.job, f"the server does not know it: {last.call} {last.when}")
    number = attempt.definition.get("attemptNr")
    for final in attempt.finals:
        told = final.sent.get("attempt_nr")
        if isinstance(told, int) and isinstance(number, int) and told != number:
            yield Violation("P1", attempt.job, f"a final {final.when} of attempt {told}, the server has {number}")


def _losses(history: History) -> Iterator[Violation]:
    """A hyper-parameter point whose loss was told twice: the second one takes the place of the first."""
    told: dict[tuple[str, str], str] = {}
    for task, point, loss in history.losses:
        before = told.setdefault((task, point), loss)
        if before != loss:
            yield Violation("P1", None, f"point {point} of task {task} was told two losses: {before}, {loss}")


def _slots(history: History, facts: Facts) -> Iterator[Violation]:
    """More jobs of one node at a time than pilots."""
    spans = [span for one in history.attempts if (span := _span(one, facts))]
    for node, job, began, _ in spans:
        others = [
            other
            for where, other, since, until in spans
            if where == node and (since, other) < (began, job) and began < until
        ]
        pilots = sum(one.lived_at(began) for one in facts.pilots if one.node in (None, node))
        if len(others) >= (facts.slots or max(1, pilots)):
            yield Violation(
                "P1", job, f"acquired at node {node} while it had job {', '.join(map(str, sorted(others)))}"
            )


def _span(attempt: Attempt, facts: Facts) -> tuple[str, int, float, float] | None:
    """Node, job, and the time from acquire to the last final, or until the pilot was gone."""
    given = [one for one in attempt.handed if attempt.got and not one.lost]
    if not given or attempt.job in facts.abandoned:
        return None
    began, node = given[0].at, str(given[0].sent.get("node"))
    end = attempt.finals[-1].at if attempt.finals else float("inf")
    gone = [one.gone_at for one in facts.pilots if one.lived_at(began) and one.node in (None, node)]
    return node, attempt.job, began, min(end, *gone) if len(gone) == 1 and gone[0] else end


def _runs(history: History, facts: Facts) -> Iterator[Violation]:
    """A payload that was run twice."""
    if facts.runs_file is None or not facts.runs_file.exists():
        return
    lines = [line.split()[:1] or [""] for line in facts.runs_file.read_text().splitlines()]
    for (job,), count in Counter(map(tuple, lines)).items():
        known = job.isdecimal()
        most = 1 if known else sum(one.got for one in history.attempts)
        if count > most:
            yield Violation("P1", int(job) if known else None, f"{count} runs of the payload, at most {most} were due")


# P2: finished means finished


def _words(attempt: Attempt) -> Iterator[Violation]:
    """Codes that contradict the state."""
    for final in attempt.finals:
        codes = {name: final.sent.get(name) for name in ("pilot_error_code", "exe_error_code", "trans_exit_code")}
        if final.state == "failed" and not any(codes.values()):
            yield Violation("P2", attempt.job, f"failed {final.when} without any error code")
        if final.state == "finished":
            wrong = [f"{name} {value}" for name, value in codes.items() if value]
            if codes["trans_exit_code"] is None and attempt.definition.get("eventService") != "True":
                wrong.append("no trans_exit_code")
            if wrong:
                yield Violation("P2", attempt.job, f"finished {final.when} with {', '.join(wrong)}")


@dataclass(frozen=True, slots=True)
class Store:
    """The embedded server's own store. ``moved``: its URLs may have another port than the server has now."""

    url: str
    session: requests.Session
    data: Path | None
    moved: bool

    def has(self, url: str) -> bool:
        """Whether the URL is one of this store."""
        there, here = urlsplit(url), urlsplit(self.url)
        local = there.hostname in _LOOPBACK and here.hostname in _LOOPBACK
        same = (local or there.hostname == here.hostname) and there.port == here.port
        return there.path.startswith("/store/") and (same or (self.moved and local))

    def look(self, url: str) -> Stored | None:
        """What lies at a URL of the store: summed up from its bytes, never asked for."""
        path = urlsplit(url).path
        if self.data is not None:
            return on_disk(self.data / unquote(path).lstrip("/"))
        with self.session.get(self.url + path, stream=True, timeout=_TIMEOUT_S) as answer:
            return _summed(answer.iter_content(_CHUNK_BYTES)) if answer.ok else None


@dataclass(slots=True)
class Outputs:
    """Compares what was reported of outputs with the bytes that are stored, and counts."""

    history: History
    listers: tuple[Lister, ...]
    store: Store
    checked: int = 0
    unchecked: list[str] = field(default_factory=list)

    def of(self, attempt: Attempt) -> Iterator[Violation]:
        """What is wrong with the outputs of a job that was said to be finished."""
        final = next((one for one in attempt.finals if one.state == "finished"), None)
        if final is None:
            return
        report = as_object(decoded(final.sent.get("job_output_report") or ""))
        for name in _declared(attempt):
            if name not in report:
                yield Violation("P2", attempt.job, f"finished {final.when} without output {name} in its report")
        for name, entry in report.items():
            wrong = self._wrong(attempt, final, name, as_object(entry))
            if wrong:
                yield Violation("P2", attempt.job, f"finished {final.when}, but output {name} {wrong}")

    def _wrong(self, attempt: Attempt, final: Request, name: str, entry: Mapping[str, Any]) -> str:
        """What is wrong with one output, "" for nothing."""
        url = str(entry.get("surl"))
        if self._overwritten(attempt, final, name, url):
            self.unchecked.append(f"{url} (overwritten by another job)")
            return ""
        try:
            stored = self._stored(url)
        except LookupError:
            self.unchecked.append(url)
            return ""
        self.checked += 1
        told = (str(entry.get("fsize")), str(entry.get("adler32")).lower().rjust(8, "0"))
        if stored is None:
            return f"is not at {url}"
        if told != (str(stored[0]), stored[1].lower().rjust(8, "0")):
            return f"has {stored[0]} bytes, adler32 {stored[1]}, and not {told[0]} bytes, adler32 {told[1]}: {url}"
        return ""

    def _overwritten(self, attempt: Attempt, final: Request, name: str, url: str) -> bool:
        """Whether it was stored again since, and another job has an output of this name."""
        rivals = any(name in one.names("outFiles") for one in self.history.attempts if one is not attempt)
        path = unquote(urlsplit(url).path)
        return rivals and any(seq > final.seq and put == path for seq, put in self.history.puts)

    def _stored(self, url: str) -> Stored | None:
        """What lies at a URL, None if nothing does; LookupError if nobody knows."""
        for lister in self.listers:
            with contextlib.suppress(LookupError):
                return lister(url)
        if url.startswith("file:"):
            return on_disk(Path(unquote(urlsplit(url).path)))
        if not self.store.has(url):
            raise LookupError(url)
        return self.store.look(url)


def on_disk(path: Path) -> Stored | None:
    """Size and adler32 of a file, None if there is none."""
    try:
        with path.open("rb") as file:
            return _summed(iter(lambda: file.read(_CHUNK_BYTES), b""))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _summed(chunks: Iterable[bytes]) -> Stored:
    size, adler32 = 0, 1
    for chunk in chunks:
        size, adler32 = size + len(chunk), zlib.adler32(chunk, adler32)
    return size, f"{adler32:08x}"


def _declared(attempt: Attempt) -> list[str]:
    """The outputs that must be there. Points of the event service have outputs of their own."""
    if attempt.definition.get("eventService") == "True":
        return []
    optional = attempt.names("allowNoOutput")
    return [name for name in attempt.names("outFiles") if name not in optional]


# P3: a stop is obeyed. P8: only what is ours is ended


def _stops(history: History, facts: Facts) -> Iterator[Violation]:
    for pilot in facts.pilots:
        if pilot.stop_asked_at is not None:
            yield from _asked_on(history, facts, pilot, pilot.stop_asked_at)
            yield from _gone_late(pilot, pilot.stop_asked_at)


def _asked_on(history: History, facts: Facts, pilot: Pilot, stop: float) -> Iterator[Violation]:
    """Jobs that were asked for after the stop, and those that came then and were begun."""
    others = [
        one for one in facts.pilots if one is not pilot and (None in (one.node, pilot.node) or one.node == pilot.node)
    ]
    asked = [
        one
        for one in history.calls
        if one.call == "acquire_jobs" and pilot.lived_at(one.at) and _by(pilot, others, one)
    ]
    for one in asked:
        if one.at > stop + IN_FLIGHT_S:
            yield Violation("P3", None, f"a job was asked for {one.when}, {one.at - stop:.1f} s after the stop")
    late = {one.seq for one in asked if one.left_at > stop + IN_FLIGHT_S}
    for attempt in history.attempts:
        running = next((one for one in attempt.updates if one.state == "running"), None)
        if running and any(one.seq in late for one in attempt.handed):
            yield Violation("P3", attempt.job, f"running {running.when}, though it came after the stop")


def _by(pilot: Pilot, others: Iterable[Pilot], request: Request) -> bool:
    """Whether a request is this pilot's: by its node, or because no other can have sent it."""
    if pilot.node is not None and pilot.node != request.sent.get("node"):
        return False
    return not any(one.lived_at(request.at) for one in others)


def _gone_late(pilot: Pilot, stop: float) -> Iterator[Violation]:
    allowed = pilot.grace_s - min(5.0, 0.2 * pilot.grace_s)
    took = (time.time() if pilot.gone_at is None else pilot.gone_at) - stop
    if took > allowed:
        how = "not gone" if pilot.gone_at is None else "gone"
        limit = f"{allowed:.1f} s were allowed (grace {pilot.grace_s:g} s)"
        yield Violation("P3", None, f"the pilot was {how} {took:.1f} s after the stop, {limit}")


def _processes(facts: Facts) -> Iterator[Violation]:
    for one in facts.survivors:
        yield Violation("P8", None, f"still running when its pilot was gone: {one}")
    for one in facts.innocents:
        if not one.lives:
            yield Violation("P8", None, f"process {one.pid}, which is nobody's payload, is gone")


# The program


@contextlib.contextmanager
def served(data: Path) -> Iterator[str]:
    """The URL of a server of ``data`` that ends with the block. It does what a restart does: it ends silent jobs."""
    if not (data / "requests.sqlite").is_file():
        raise ValueError(f"{data} is no data directory of pilot serve")
    command = [sys.executable, "-m", "pilot", "serve", "--port", "0", "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            ready, _, _ = select.select([server.stdout], [], [], _START_S)
            line = server.stdout.readline().split() if ready and server.stdout else []
            if len(line) != 2 or line[0] != "ready":
                raise ValueError(f"no server could be started on {data}")
            yield line[1]
        finally:
            server.terminate()


def main(arguments: list[str] | None = None) -> int:
    """The program: prints what was found and returns the exit code."""
    parser = argparse.ArgumentParser(prog="tests.checker", description="Checks P1-P3 and P8 over a server's history.")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--server", metavar="URL", help="a running pilot serve")
    where.add_argument("--data", metavar="DIR", type=Path, help="its data directory: a server is started on it")
    parser.add_argument("--facts", metavar="FILE", type=Path, help="JSON with what the server cannot know")
    try:
        options = parser.parse_args(arguments)
    except SystemExit as leave:
        return 78 if leave.code else 0
    try:
        report = _checked(options)
    except (OSError, ValueError, KeyError, requests.RequestException) as error:
        print(f"checker: {error}", file=sys.stderr)
        return 78
    for line in [*report.violations, *(f"unchecked: {url}" for url in report.unchecked), report.summary]:
        print(line)
    return 1 if report.violations else 0


def _checked(options: argparse.Namespace) -> Report:
    facts = facts_of(json.loads(options.facts.read_text())) if options.facts else Facts()
    if options.server:
        return examine(options.server, facts)
    with served(options.data) as url:
        return examine(url, facts, data=options.data, moved=True)


if __name__ == "__main__":
    sys.exit(main())
