"""The reporter after commands and documents that somebody has made to end it: it beats on, and delivers the final."""

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pilot.files.folder import Folder
from pilot.net.transport import Transport
from pilot.panda.client import PandaClient
from pilot.panda.messages import Broken, Documents, Fault, Reported, Verdict
from pilot.panda.report import Followed, Pace
from pilot.panda.reporter import Reporter
from pilot.panda.wire import Wire
from pilot.runner.area import JobArea
from pilot.runner.inspection import Inspector
from pilot.values.deadline import Deadline
from pilot.values.stop import Reason, Stop
from tests.fault.clock import JumpingClock
from tests.fault.scripted import ACCEPTED, Scripted
from tests.lab import until

PACE_S = 300
DEPTH = 1500
ODD = b"odd\xff"


@pytest.fixture(scope="module")
def area():
    """What a payload may leave in its work directory; not below pytest's own, whose removal would recurse."""
    with tempfile.TemporaryDirectory(prefix="pilot-hostile-") as volume:
        try:
            with JobArea(Path(volume, "job")).made() as found:
                _leave(found)
                yield found
        finally:
            with Folder.at(Path(volume)) as folder:
                assert folder.remove("job", Deadline.after(60)) == ""


def _leave(found):
    found.stdout.append(b"first words\n")
    work = os.open(found.work, os.O_RDONLY)
    (found.work / "deep").mkdir()
    (found.work / "empty").mkdir()
    (found.work / "many").mkdir()
    (found.work / "nothing").touch()
    _dig(found.work / "deep", DEPTH)
    for number in range(50_000):
        os.close(os.open(f"many/f{number:05}", os.O_WRONLY | os.O_CREAT, dir_fd=work))
    os.mkfifo(found.work / "fifo")
    (found.work / "device").symlink_to("/dev/zero")
    (found.work / "out").symlink_to("/")
    os.close(os.open(ODD, os.O_WRONLY | os.O_CREAT, dir_fd=work))
    os.close(work)
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(".", os.O_RDONLY)
        os.chdir(found.work)  # the path of a socket is short
        try:
            listener.bind("socket")
        finally:
            os.fchdir(here)
            os.close(here)


def _dig(top, depth):
    here = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("bottom", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)


class World:
    """A reporter that follows a running job, against a server whose answers are the test's."""

    def __init__(self, area, *, clock=None, transport=None, look=None):
        self.server = Scripted()
        self.clock = clock or JumpingClock()
        self.stop = Stop()
        self.inspector = Inspector(area)
        transport = transport(self.server.url) if transport else Transport(self.server.url)
        client = PandaClient(Wire(transport, self.server.url, "test"))
        self.reporter = Reporter(client, pace=Pace(PACE_S, PACE_S), clock=self.clock, rng=random.Random(4))
        self.reporter.start()
        identity = {"job_id": 1, "attempt_nr": 1}
        self.reporter.follow(Followed(identity, self.stop, look=look or self.inspector.look))
        self.reporter.phase({"job_status": "running", "max_rss": 1.0})
        until(lambda: self.server.updates, what="the first update")

    def beats(self, count):
        """Time passes until so many more updates have come."""
        before = len(self.server.updates)
        while len(self.server.updates) < before + count:
            self.clock.horizon = self.clock.monotonic() + PACE_S
            until(lambda: self.clock.monotonic() + 0.5 * PACE_S >= self.clock.horizon, what="time to pass")

    def shown(self):
        return [one.get("stdout") for one in self.server.updates]

    def finish(self):
        """The final's verdict; word of faults before it is passed over."""
        report = json.dumps({"log": {"guid": "g", "fsize": 1, "adler32": "00000001"}})
        final = {"job_status": "finished", "job_output_report": report, "meta_data": "{}"}
        self.clock.horizon = self.clock.monotonic() + 10 * PACE_S
        self.reporter.final(final, Deadline.after(3600, self.clock))
        while isinstance(message := self.reporter.mailbox.get(Deadline.after(30)), Fault):
            pass
        assert isinstance(message, Reported), message
        return message.verdict

    def finals(self):
        return [one for one in self.server.updates if one["job_status"] == "finished"]

    def close(self):
        self.reporter.finish(Deadline.after(30))
        self.server.close()
        self.stop.close()
        self.inspector.__exit__(None, None, None)


@pytest.fixture
def world(area):
    found = World(area)
    yield found
    found.close()


LOOKS = [
    ("tail a\0b", "not possible"),
    ("tail \ud800", "not possible"),
    ("ls \udfff/x", "not possible"),
    ("tail odd\udcff", "nothing to show"),
    ("ls", "odd\\udcff"),
    ("ls many", "the last 100 of 50000"),
    ("ls empty", "ls empty: nothing to show"),
    ("tail nothing", "tail nothing: nothing to show"),
    ("ls deep/" + "d/" * 100, " d"),
    ("ls deep/" + "e/" * 100, "No such file"),
    ("du", "not all was counted"),
    ("du deep", "in 1 files"),
    ("du deep/d/d", "in 1 files"),
    ("tail fifo", "FIFO"),
    ("tail socket", "socket"),
    ("tail device", "not in the work directory"),
    ("tail out/etc/hostname", "not in the work directory"),
    ("ls out/.", "lrwxrwxrwx"),
    ("ls out/etc", "not in the work directory"),
    ("tail .", "directory"),
    ("tail many", "directory"),
    ("tail ../payload.stdout", "not in the work directory"),
    ("tail //etc//hostname", "not in the work directory"),
    ("tail " + "x" * 400, "too long"),
    ("tail \x1b]52;c;aGk=\x07", "\\x1b"),
    ("ls \u2028", "odd"),
    ("tail a b c", "not understood"),
    ("ps\u3000-ef", "COMMAND"),
]


@pytest.mark.parametrize(("command", "answer"), LOOKS, ids=lambda text: ascii(text)[:40])
def test_a_look_at_whatever_is_there_is_answered_and_beats_go_on(world, command, answer):
    world.server.command(command)
    world.beats(1)
    world.server.tell("update_job", *[{**ACCEPTED, "data": {"StatusCode": 0, "command": command}}] * 2)
    world.beats(3)
    told = [one for one in world.shown() if one is not None]
    assert told
    assert all(answer in one for one in told), told
    assert all(len(one.encode()) <= 2048 for one in told)
    assert world.finish() is Verdict.STORED
    assert world.reporter.silent_s == 0.0


def test_debug_mode_shows_the_newest_file_of_a_tree_of_any_depth(world, area):
    world.server.command("debug")
    world.beats(3)
    assert any("[" in (one or "") for one in world.shown()), world.shown()
    assert world.finish() is Verdict.STORED


def test_processes_that_name_themselves_with_any_bytes_are_listed(world):
    code = (
        "import ctypes, sys\nctypes.CDLL(None).prctl(15, b'a)\\xff\\n(b', 0, 0, 0)\nprint(flush=True)\nsys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as child:
        child.stdout.readline()
        world.server.command("ps")
        world.beats(3)
        child.stdin.close()
    assert any("a)\\udcff\\n(b" in (one or "") for one in world.shown()), world.shown()
    assert world.finish() is Verdict.STORED


def envelope(data):
    return b'{"success": true, "message": "", "data": %s}' % data


DEEP = b"[" * 50_000 + b"]" * 50_000
ANSWERS = {
    "nested 50,000 deep": DEEP,
    "objects nested deep": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "deep below data": envelope(DEEP),
    "deep without an end": b"[" * 900_000,
    "StatusCode NaN": envelope(b'{"StatusCode": NaN}'),
    "StatusCode 1e999": envelope(b'{"StatusCode": 1e999}'),
    "StatusCode of 5000 digits": envelope(b'{"StatusCode": %s}' % (b"9" * 5000)),
    "StatusCode a text": envelope(b'{"StatusCode": "0"}'),
    "StatusCode a list": envelope(b'{"StatusCode": [0]}'),
    "StatusCode true": envelope(b'{"StatusCode": true}'),
    "keys that stand twice": envelope(b'{"StatusCode": 0, "StatusCode": 30}'),
    "not UTF-8": envelope(b'{"StatusCode": 0, "command": "\xff\xfe"}'),
    "half an UTF-16 text": b"\xff\xfe{\x00",
    "half of a surrogate pair": envelope(b'{"StatusCode": 0, "command": "\\ud800,\\udfff"}'),
    "NUL bytes": b"\0" * 1000,
    "data a list": envelope(b"[1]"),
    "data null": envelope(b"null"),
    "data a text": envelope(b'"0"'),
    "command a list": envelope(b'{"StatusCode": 0, "command": ["tail", "x"]}'),
    "command an object": envelope(b'{"StatusCode": 0, "command": {"tail": "x"}}'),
    "command a number": envelope(b'{"StatusCode": 0, "command": 17}'),
    "command true": envelope(b'{"StatusCode": 0, "command": true}'),
    "command null": envelope(b'{"StatusCode": 0, "command": null}'),
    "command of 900 kB": envelope(b'{"StatusCode": 0, "command": "tail %s"}' % (b"x" * 900_000)),
    "900,000 commands": envelope(b'{"StatusCode": 0, "command": "%s"}' % (b"x," * 450_000)),
    "command of blanks": envelope(b'{"StatusCode": 0, "command": " \\u3000, ,\\t"}'),
    "secrets nested deep": envelope(b'{"StatusCode": 0, "pilotSecrets": "%s"}' % DEEP),
    "secrets a list": envelope(b'{"StatusCode": 0, "pilotSecrets": [1]}'),
    "secrets of all kinds": envelope(b'{"StatusCode": 0, "pilotSecrets": "{\\"a\\": null, \\"b\\": [1]}"}'),
    "no success": b"{}",
    "success a text": b'{"success": "yes", "data": {"StatusCode": 0}}',
    "message a deep list": b'{"success": false, "message": %s}' % DEEP,
    "message of 900 kB": b'{"success": false, "message": "%s"}' % (b"x" * 900_000),
    "nothing": b"",
    "more than is read": b" " * (2 << 20),
    "100,001 elements": envelope(b"[%s]" % b",".join([b"1"] * 100_001)),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_an_answer_of_any_shape_costs_at_most_one_update(world, answer):
    world.server.tell("update_job", answer)
    world.beats(3)
    world.server.tell("update_job", answer if b'"StatusCode": 0' not in answer else b"")
    assert world.finish() in (Verdict.STORED, Verdict.ALREADY_DONE)
    assert world.stop.reason is None
    assert "job_output_report" in world.finals()[-1]
    assert world.reporter.mailbox.get(Deadline.after(0)) is None


DOCUMENTS = {**ANSWERS, "a number that is none": b'{"timefloor": Infinity}', "good": b'{"status": "online"}'}


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_a_document_of_any_shape_is_read_or_asked_for_again_while_beats_go_on(world, document):
    world.server.tell("queue.json", document)
    world.reporter.fetch(f"{world.server.url}/queue.json", "")
    until(lambda: not world.server.left("queue.json"), what="the document")
    world.beats(2)
    message = world.reporter.mailbox.get(Deadline.after(30))
    assert isinstance(message, Documents | Broken), message
    assert world.finish() is Verdict.STORED


class FailingTransport(Transport):
    """Raises what nobody expects of it, as often as it is told to."""

    failures = 0

    def call(self, *arguments, **named):
        if self.failures:
            self.failures -= 1
            raise ZeroDivisionError("a bug")
        return super().call(*arguments, **named)


class FailingClock(JumpingClock):
    """The same for waits."""

    error = None
    failures = 0

    def wait(self, condition, seconds):
        if self.failures:
            self.failures -= 1
            raise self.error
        super().wait(condition, seconds)


def test_a_fault_below_a_duty_is_that_dutys_and_is_told(area):
    kept = []

    def make(url):
        kept.append(FailingTransport(url))
        return kept[0]

    world = World(area, transport=make)
    try:
        kept[0].failures = 1
        world.beats(2)
        assert isinstance(world.reporter.mailbox.get(Deadline.after(30)), Fault)
        kept[0].failures = 1
        assert world.finish() is Verdict.STORED
        assert world.finals()[0]["meta_data"] == "{}"
        assert world.reporter.silent_s >= 0
    finally:
        world.close()


def test_a_question_that_meets_faults_only_is_told_as_broken_after_the_third(area):
    kept = []

    def make(url):
        kept.append(FailingTransport(url))
        return kept[0]

    world = World(area, transport=make)
    try:
        world.clock.horizon = world.clock.monotonic() + 100
        kept[0].failures = 3
        world.reporter.ask_status(1)
        messages = [world.reporter.mailbox.get(Deadline.after(30)) for _ in range(4)]
        assert [type(one) for one in messages] == [Fault, Fault, Fault, Broken]
        assert world.finish() is Verdict.STORED
    finally:
        world.close()


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a bug"), MemoryError(), RecursionError(), KeyboardInterrupt()], ids=repr
)
def test_the_thread_begins_anew_after_a_fault_of_its_own(area, error):
    world = World(area, clock=FailingClock())
    try:
        world.clock.error, world.clock.failures = error, 3
        world.clock.horizon = world.clock.monotonic() + PACE_S
        assert isinstance(world.reporter.mailbox.get(Deadline.after(30)), Fault)
        world.beats(2)
        world.clock.failures = 2
        assert world.finish() is Verdict.STORED
        assert len(world.finals()) == 1
    finally:
        world.close()


def test_a_look_that_fails_by_a_fault_of_ours_is_answered_and_asked_again(area):
    looks = []

    def look(command):
        looks.append(command)
        raise ZeroDivisionError("a bug")

    world = World(area, look=look)
    try:
        world.server.command("ls")
        world.beats(1)
        world.server.tell("update_job", *[{**ACCEPTED, "data": {"StatusCode": 0, "command": "ls"}}] * 3)
        world.beats(3)
        told = [one for one in world.shown() if one]
        assert told
        assert all(one == "ls: not possible (ZeroDivisionError)" for one in told)
        assert world.finish() is Verdict.STORED
    finally:
        world.close()


def test_a_look_at_nothing_is_an_answer_too(area):
    world = World(area, look=lambda _command: "")
    try:
        world.server.command("ls")
        world.beats(2)
        assert "nothing to show" in world.shown()
        assert world.finish() is Verdict.STORED
    finally:
        world.close()


def test_figures_that_are_no_numbers_are_left_out_of_an_update(world):
    fields = {"job_status": "running", "max_rss": float("nan"), "avg_rss": float("inf"), "job_metrics": "a\0\ud800b"}
    world.reporter.note(fields)
    world.beats(2)
    last = world.server.updates[-1]
    assert last["job_metrics"] == "a??b"
    assert not {"max_rss", "avg_rss"} & set(last)
    assert world.finish() is Verdict.STORED


def test_an_update_that_cannot_be_made_goes_without_what_is_optional(world):
    world.reporter.note({"job_status": "running", "no such field": 1})
    world.beats(2)
    assert world.server.updates[-1]["job_status"] == "running"
    assert world.finish() is Verdict.STORED


# --- what the server means ----------------------------------------------------------------------------


def test_alreadydone_to_a_running_update_stops_the_job(world):
    world.server.command("alreadydone")
    world.beats(1)
    until(lambda: world.stop.reason is Reason.ALREADY_DONE, what="the stop")
    assert world.stop.error().code == 1144


def test_alreadydone_to_a_final_is_its_receipt(world):
    world.server.tell("update_job", {**ACCEPTED, "data": {"StatusCode": 0, "command": "alreadydone"}})
    assert world.finish() is Verdict.ALREADY_DONE
    assert world.stop.reason is None


NO_META_DATA = {"success": True, "message": "", "data": {"StatusCode": 30, "ErrorDiag": "Failed to add meta_data"}}
AWAY = {"success": True, "message": "", "data": [{"job_id": 1, "status": "unknown", "attempt_number": "NULL"}]}


def test_metadata_outlast_a_database_that_is_away(world):
    world.server.tell("update_job", *[NO_META_DATA] * 6)
    world.server.tell("get_job_status", *[AWAY] * 6)
    assert world.finish() is Verdict.STORED
    assert [one.get("meta_data") for one in world.finals()] == ["{}"] * 7


def test_metadata_are_given_up_at_once_for_a_job_that_the_server_does_not_know(world):
    world.server.tell("update_job", NO_META_DATA)
    world.server.status = {"job_id": 1, "status": "not found", "attempt_number": 0}
    assert world.finish() is Verdict.STORED
    assert [one.get("meta_data") for one in world.finals()] == ["{}", None]


def test_a_server_that_never_takes_the_metadata_still_gets_the_final(world):
    world.server.tell("update_job", *[NO_META_DATA] * 4)
    assert world.finish() is Verdict.STORED
    assert "meta_data" not in world.finals()[-1]
    assert world.finals()[-1]["job_output_report"]
