"""A payload that writes the journal and ends its pilot: what real pilots and recoverers make of it."""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pilot.payload.procfs import MARK_NAME, boot_id, look, pid_namespace
from pilot.runner.journal import NAME, read
from tests.hostile.journals import changed, line, record_of, where
from tests.lab import Run, dump, ended_runs, until
from tests.secrets import secret

FORGE = """
import json, os, signal, sys, zlib
journal = "../../journal"
places = next(r for r in map(lambda l: json.loads(l[9:]), open(journal)) if r["kind"] == "planned")["destinations"]
stored = [{"kind": "stored", "lfn": lfn, "guid": "ab", "size": 5, "checksum": "adler32:00000001", "url": ways[0][0],
    "endpoint": ways[0][1]} for lfn, ways in places.items()]
listed = {one["lfn"]: {"guid": "ab", "fsize": 5, "adler32": "00000001", "surl": one["url"]} for one in stored}
records = [{"kind": "exited", "exit_code": 0, "cpu_s": 0, "max_rss_kib": 1, "seconds": 1, "stopped": False}, *stored,
    {"kind": "final", "fields": {"job_status": "finished", "trans_exit_code": 0, "pilot_error_code": 0,
    "job_output_report": json.dumps(listed)}}]
with open(journal, "ab") as file:
    for record in records[: int(sys.argv[1])]:
        text = json.dumps({"time": 1.7e9, **record}).encode()
        file.write(b"%08x %b\\n" % (zlib.crc32(text), text))
os.kill(int(sys.argv[2]), signal.SIGKILL)
"""
"""Writes the first of: an exit status, stored files, a final; and ends the process of this number."""


@pytest.fixture
def lives(serve, tmp_path):
    """Starts pilots and recoverers on one volume."""
    with ended_runs() as started:
        work = tmp_path / "work"
        work.mkdir()

        def start(*command, environment=None, server=None):
            given = {"PILOT_PATIENCE": "20", "PILOT_IDLE_LIMIT": "2", "PILOT_CONNECT_LIMIT": "2", **(environment or {})}
            where_to = serve.url if server is None else server
            started.append(Run(where_to, work, command=[*command] or None, environment=given))
            return started[-1]

        start.work = work
        yield start


COMMANDS = {"run": ["run", "--max-jobs", "1", "--idle", "0.5"], "recover": ["recover"]}


@pytest.fixture
def listener():
    """A server of somebody else; what it was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            asked.append(f"{self.command} {self.path} {self.headers}")
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = do_PROPFIND = answer  # noqa: N815 - names of the library

        def log_message(self, *_words):
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        server.asked, server.url = asked, f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()
        thread.join()


def killed(serve, lives, command="echo there; touch there; sleep 600", **more):
    """A job whose pilot was killed while its payload ran."""
    job = serve.submit(command=command, **more)
    pilot = lives()
    until(lambda: [one for one in read(lives.work) if one["kind"] == "started"], what="a payload")
    until(lambda: serve.status(job)["state"] == "running", what="running")
    pilot.process.kill()
    pilot.process.wait()
    return job


def lines_of(lives):
    return (lives.work / NAME).read_bytes().splitlines(keepends=True)


def write(lives, lines):
    (lives.work / NAME).write_bytes(b"".join(lines))


def told(serve, job):
    """The server's word on the job, of which there is one."""
    status = serve.ended(job)
    assert len(serve.finals(job)) == 1, dump(status)
    said = [json.loads(one["body"])["job_status"] for one in serve.calls("update_job", job)]
    assert len({one for one in said if one in ("finished", "failed")}) == 1
    return status


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_payload_that_writes_its_own_end_and_kills_its_pilot_has_not_finished(serve, lives, count, command):
    # Given: a payload that forges, and ends its pilot; its output is nowhere
    forge = shlex.join([sys.executable, "-c", FORGE, str(count)])
    job = serve.submit(command=f"{forge} $PPID; sleep 600", outputs=["out"])
    pilot = lives()
    assert pilot.wait() == -signal.SIGKILL
    assert [one for one in read(lives.work) if one["kind"] == "exited"]
    # When: the next life reads that
    assert lives(*COMMANDS[command]).wait() == 0
    # Then: the job has failed
    assert told(serve, job)["state"] == "failed"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_payload_that_names_another_directory_as_its_own_deletes_nothing(serve, lives, tmp_path, command):
    victim = tmp_path / "job-1-1-00000000"
    victim.mkdir()
    (victim / "file").write_text("precious")
    job = killed(serve, lives)
    lines = lines_of(lives)
    at = where(lines, "taken")
    write(lives, [*lines[:at], changed(lines[at], area=str(victim)), *lines[at + 1 :]])
    assert lives(*COMMANDS[command]).wait() == 0
    assert told(serve, job)["state"] == "failed"
    assert (victim / "file").read_text() == "precious"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_flipped_bit_in_an_early_record_fails_the_job_and_keeps_the_file(serve, lives, command):
    job = killed(serve, lives)
    content = bytearray((lives.work / NAME).read_bytes())
    content[40] ^= 4
    (lives.work / NAME).write_bytes(content)
    assert lives(*COMMANDS[command]).wait() == 0
    status = told(serve, job)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1200)
    assert "its journal is damaged: line 1: its checksum is wrong" in status["pilot_error_diag"]
    assert (lives.work / "journal.damaged-1").read_bytes().startswith(bytes(content[:100]))


def test_no_credential_goes_where_only_the_journal_says(serve, lives, listener, tmp_path):
    # Given: a pilot with a token for its storages, killed when its payload had ended well
    token = tmp_path / "token"
    token.write_text(secret("a-token-for-the-sites-own-storages") + "\n")
    serve.faults({"match": "/store/local", "do": "delay", "seconds": 600})
    job = serve.submit(command="echo content > out", outputs=["out"])
    environment = {"PILOT_STORAGE_TOKEN": str(token)}
    pilot = lives(environment=environment)
    until(lambda: [one for one in read(lives.work) if one["kind"] == "storing"], what="stage-out")
    pilot.process.kill()
    pilot.process.wait()
    serve.faults()
    # And: places and servers in the journal that are somebody else's
    lines = lines_of(lives)
    at = where(lines, "planned")
    places = {
        lfn: [[f"{listener.url}/{lfn}", ways[0][1], None]] for lfn, ways in record_of(lines[at])["destinations"].items()
    }
    trusted = [listener.url.removeprefix("http://")]
    write(lives, [*lines[:at], changed(lines[at], destinations=places, trusted=trusted), *lines[at + 1 :]])
    # When: a recoverer reads that
    assert lives("recover", environment=environment).wait() == 0
    # Then: nobody else was asked, and the job says why it has failed
    assert listener.asked == []
    status = told(serve, job)
    assert status["state"] == "failed"
    assert "no place for it that the site has" in status["pilot_error_diag"]


def test_a_server_that_only_the_journal_names_gets_no_credential(serve, lives, listener, tmp_path):
    # Given: a journal that names somebody else's server
    token = tmp_path / "token"
    token.write_text(secret("a-token-for-the-panda-server") + "\n")
    job = killed(serve, lives)
    lines = lines_of(lives)
    told_settings = {"server": listener.url, "token": str(token)}
    forged = line(kind="life", life="x", pid=1, settings=told_settings)
    write(lives, [*lines, forged])
    # When: a recoverer is not told itself
    run = lives("recover", environment={"PILOT_WORK": str(lives.work)}, server="")
    # Then: it says what to do
    assert run.wait() == 78
    assert "name the server with --server" in run.errors.read_text()
    assert listener.asked == []
    # And: told the server, it ends the job there
    write(lives, [*lines, line(kind="life", life="x", pid=1, settings={"server": listener.url})])
    assert lives("recover").wait() == 0
    assert listener.asked == []
    assert told(serve, job)["state"] == "failed"


def test_processes_that_only_the_journal_names_are_left_alone(serve, lives, tmp_path):
    # Given: a stranger, in a session of its own
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    serve.innocent(stranger.pid)
    job = killed(serve, lives)
    mark = "ab" * 16
    group = tmp_path / f"pilot-payload-{mark}"
    group.mkdir()
    (group / "cgroup.procs").write_text(f"{stranger.pid}\n")
    (group / "cgroup.kill").symlink_to(tmp_path / "written")
    proof = {
        "mark": mark, "pid": stranger.pid, "start_ticks": look(stranger.pid).start_ticks, "boot_id": boot_id(),
        "pid_namespace": pid_namespace(), "cgroup": str(group),
    }  # fmt: skip
    true = next(one["proof"] for one in read(lives.work) if one["kind"] == "started")
    write(lives, [*lines_of(lives), line(kind="started", proof=proof)])
    # When: the job is recovered
    try:
        assert lives("recover").wait() == 0
        # Then: it lives, and no file was taken for a control group
        assert stranger.poll() is None
        assert not (tmp_path / "written").exists()
        assert group.exists()
        assert told(serve, job)["state"] == "failed"
        serve.check()
    finally:
        stranger.kill()
        stranger.wait()
        serve.innocents.clear()
        with contextlib.suppress(ProcessLookupError):  # the true payload, which the forged record hides
            if f"{MARK_NAME}={true['mark']}".encode() in Path(f"/proc/{true['pid']}/environ").read_bytes():
                os.killpg(true["pid"], signal.SIGKILL)


@pytest.mark.parametrize("what", ["is gone", "is another file", "is there"])
@pytest.mark.parametrize("command", COMMANDS)
def test_what_was_stored_is_looked_at_before_it_is_told(serve, lives, what, command):
    # Given: a pilot that was killed when its outputs were stored, and its final did not arrive
    serve.faults({"match": "update_job", "do": "drop_before", "state": "finished"})
    job = serve.submit(command="echo content > out", outputs=["out"])
    pilot = lives()
    until(lambda: [one for one in read(lives.work) if one["kind"] == "final"], what="the final")
    pilot.process.kill()
    pilot.process.wait()
    serve.faults()
    url = next(one["url"] for one in read(lives.work) if one["kind"] == "stored" and one["lfn"] == "out")
    # And: what became of the output meanwhile
    if what == "is gone":
        serve.call("DELETE", url.removeprefix(serve.url))
    elif what == "is another file":
        serve.call("PUT", url.removeprefix(serve.url), data=b"other")
    # When: the next life comes
    assert lives(*COMMANDS[command]).wait() == 0
    # Then: the job has finished, with its output
    status = told(serve, job)
    assert status["state"] == "finished"
    assert serve.fetch(status["outputs"][0]["url"]) == b"content\n"


def test_an_output_that_is_neither_there_nor_here_fails_the_job(serve, lives):
    serve.faults({"match": "update_job", "do": "drop_before", "state": "finished"})
    job = serve.submit(command="echo content > out", outputs=["out"])
    pilot = lives()
    until(lambda: [one for one in read(lives.work) if one["kind"] == "final"], what="the final")
    pilot.process.kill()
    pilot.process.wait()
    serve.faults()
    serve.abandon(job)  # its last word was never heard
    url = next(one["url"] for one in read(lives.work) if one["kind"] == "stored" and one["lfn"] == "out")
    serve.call("DELETE", url.removeprefix(serve.url))
    next(lives.work.glob("job-*/work/out")).unlink()
    assert lives("recover").wait() == 0
    status = serve.ended(job)
    assert (status["state"], len(serve.finals(job))) == ("failed", 1)
    assert "left no output out" in status["pilot_error_diag"]
    serve.checked = False  # two finals were said, of which one did not arrive


def test_the_journal_of_the_version_before_is_recovered(serve, lives):
    # Given: a journal without seals, places and what else is new
    serve.faults({"match": "/store/local", "do": "delay", "seconds": 600})
    job = serve.submit(command="echo content > out", outputs=["out"])
    pilot = lives()
    until(lambda: [one for one in read(lives.work) if one["kind"] == "storing"], what="stage-out")
    pilot.process.kill()
    pilot.process.wait()
    serve.faults()
    new = {"taken": ("seal",), "life": ("place",)}
    old = []
    for one in map(record_of, lines_of(lives)):
        about = () if one["kind"] == "taken" else ("job", "attempt", "seal")
        dropped = (*new.get(one["kind"], ()), *about)
        old.append(line(**{name: value for name, value in one.items() if name not in dropped}))
    write(lives, old)
    # Then
    assert lives("recover").wait() == 0
    assert told(serve, job)["state"] == "finished"
