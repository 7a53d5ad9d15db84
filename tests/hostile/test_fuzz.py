"""Ten thousand spoilt inputs at every border: each is understood, or refused in the words of that border, and in time.

The seed is always the same, so that nobody's commit fails for a case that nobody has seen; see `fuzzing.py` for others.
A case that fails is named, so that it can be repeated. ``pytest -s`` prints how many there were.
"""

import json
import os
import subprocess
import sys
import zlib
from contextlib import closing

import pytest

from pilot.panda.decode import decode_job
from pilot.panda.messages import Verdict
from pilot.runner.area import JobArea
from pilot.runner.records import parse as parse_journal
from pilot.staging.order import Side
from pilot.staging.worker.web import http, webdav
from pilot.values.deadline import Deadline
from pilot.values.errors import BadJob, SiteError, TransferFailed, Unreachable
from pilot.values.site import parse_queue
from tests.fault.test_reporter_hostile import World
from tests.hostile.fuzz import Mutator
from tests.hostile.fuzzing import SEED, TIMES
from tests.hostile.raw_server import RawServer, answer
from tests.hostile.web_borders import AROUND, Quiet
from tests.lab import until

LEAST = {"values": 9000, "answers": 7000}
LIMIT_S = 200


@pytest.mark.timeout((LIMIT_S + 30) * TIMES)
@pytest.mark.parametrize("which", ["values", "answers"])
def test_what_is_spoilt_is_understood_or_refused(which, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.hostile.fuzzing", which, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S * TIMES,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = [line for line in lines if "case" in line]
    count = sum(line["cases"] for line in lines if "border" in line)
    print(f"\n{which}: {count} cases, seed {SEED}: {len(found)} complaints")
    assert done.returncode == 0, (
        f"{case((tmp_path / 'at').read_text().split(chr(10))[0])} did not end\n{done.stderr[-6000:]}"
    )
    assert not found, shown(found)
    assert count >= LEAST[which] or "CASE" in os.environ


def shown(found):
    """The complaints, one of each kind."""
    kinds = {line["what"].strip().splitlines()[-1][:60]: line for line in reversed(found)}
    texts = [f"{case(line['case'])}\n{line['what']}" for line in kinds.values()]
    return "\n".join([f"{len(found)} cases of {len(kinds)} kinds", *texts])


def case(name):
    """How to repeat one."""
    return f'SEED={SEED} CASE="{name}"'


# --- a thread of ours ----------------------------------------------------------------------------------------

UPDATED = {
    "success": True,
    "message": "",
    "data": {"StatusCode": 0, "command": "tail x,debug", "pilotSecrets": '{"a": "b"}'},
}
UPDATES = 300


def test_the_reporter_beats_on_whatever_its_updates_are_answered(tmp_path):
    with JobArea(tmp_path / "job").made() as area:
        world = World(area, look=lambda _command: "x")
        try:
            for number in range(UPDATES):
                world.server.tell("update_job", Mutator(f"{SEED} updates {number}").json(UPDATED))
            while world.server.left("update_job"):
                world.clock.horizon = horizon = world.clock.monotonic() + 10_000
                until(
                    lambda: not world.server.left("update_job") or world.clock.monotonic() + 1000 > horizon,  # noqa: B023
                    what="the next beats",
                )
            assert world.reporter.mailbox.get(Deadline.after(0)) is None  # no fault of ours was told
            assert world.finish() is Verdict.STORED
            assert len(world.server.updates) > UPDATES
        finally:
            world.close()


# --- what was found here ---------------------------------------------------------------------------------------

LISTED = """<?xml version="1.0" encoding="%s"?><D:multistatus xmlns:D="DAV:"><D:response><D:href>%s</D:href>
</D:response></D:multistatus>"""


@pytest.mark.parametrize(
    ("encoding", "name"), [("utf-null8", "/d/f"), ("x" * 5000, "/d/f"), ("utf-8", "http://[::1/d/f")]
)
def test_a_list_in_no_encoding_or_of_no_addresses_is_refused_in_a_short_line(encoding, name):
    with closing(RawServer()) as server:
        server.say(answer(207, (LISTED % (encoding, name)).encode()))
        with pytest.raises(TransferFailed) as refusal:
            list(webdav.entries(Side(f"{server.url}/d/"), AROUND))
    assert len(str(refusal.value)) < 400


def test_a_range_beyond_all_measure_ends_a_download_as_broken_off():
    told = ("ETag", '"1"')
    with closing(RawServer()) as server:
        server.say(
            answer(200, b"half", told, length=8),
            answer(206, b"more", told, ("Content-Range", f"bytes 4-{'9' * 5000}/*")),
        )
        with (
            pytest.raises(Unreachable, match="does not go on"),
            http.reading(Side(f"{server.url}/d/f"), AROUND, Quiet(), compared=True) as source,
        ):
            list(source.chunks)


@pytest.mark.parametrize("field", ["command", "jobPars", "environment", "transformation"])
@pytest.mark.parametrize("text", ["a\ud800", "a\udcffb", "\udfff", "a\0"])
def test_a_job_that_no_process_could_be_given_is_refused_by_its_field(field, text):
    value = {"A": text} if field == "environment" else text
    with pytest.raises(BadJob, match=field):
        decode_job({"PandaID": 1, "transformation": "true", field: value})


@pytest.mark.parametrize("text", ["A=a\ud800", "A=\0", "\udcff=1"])
def test_an_environment_of_a_queue_that_no_process_could_be_given_is_refused(text):
    with pytest.raises(SiteError, match="environ"):
        parse_queue("Q", {"nickname": "Q", "environ": text})


def test_a_url_with_an_endless_port_is_refused_in_a_short_line():
    with pytest.raises(BadJob) as refusal:
        decode_job({"PandaID": 1, "transformation": f"https://h:{'1.' * 1500}/x"})
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("half", [b"\xed\xa0\x80", b"\xed\xbf\xbf", b"\\ud800"])
def test_half_a_character_in_a_journal_is_damage(half):
    text = b'{"kind": "life", "time": 1.0, "life": "%b"}' % half
    content = parse_journal(b"%08x %b\n" % (zlib.crc32(text), text))
    assert (content.records, content.damage[:6]) == ((), "line 1")
