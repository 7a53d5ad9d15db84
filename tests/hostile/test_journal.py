"""Journals as a payload, or a bad disk, may leave them: one true final, or a clear refusal; never a forged one."""

import dataclasses
import json
import os
import shutil
import stat
import tempfile
import zlib
from pathlib import Path

import pytest

from pilot.agent.scratch import make_scratch
from pilot.runner.journal import NAME, RECORDS, RESERVE_NAME, Busy, Journal, read
from pilot.runner.past import tell
from pilot.values.settings import Settings
from tests.fault.schedules.judge import quiet
from tests.hostile import journals
from tests.hostile.attack import KINDS, attack

BEHIND = ("taken", "planned", "starting", "started", "usage", "exited", "storing", "stored", "final", "ended")
"""Records of a job's life, in its order: the pilot has died behind the last one."""

DAMAGED = {(kind, "bit flipped") for kind in ("life", *BEHIND[:-1])} | {
    (kind, "a piece lost") for kind in ("life", *BEHIND[:-2])
}
"""What is no torn end, though the job's end is not known to the server."""

ENDS = ("finished", "failed", "holding", "transferring")


@pytest.fixture
def folder():
    """On a disk that syncs for nothing."""
    fast = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(prefix="journal-", dir=fast if fast.is_dir() else None))
    with quiet():
        yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("command", journals.COMMANDS)
@pytest.mark.parametrize("mutation", journals.MUTATIONS)
@pytest.mark.parametrize("kind", ["life", *BEHIND])
def test_a_record_that_is_not_what_it_was_costs_at_most_the_job(folder, kind, mutation, command):
    # Given: a job whose payload has ended well, and a pilot that has died when it had said so, or behind the record
    with journals.died(folder, "ended" if kind == "ended" else "final", command) as world:
        lines = journals.lines_of(world)
        at = journals.where(lines, kind)
        # When: one record is another, and the next life comes
        told = journals.told(world, journals.MUTATIONS[mutation](lines, at), folder)
        # Then: the server has one end, which is true
        assert told.violations == ()
        assert told.state in ENDS
        assert told.victim_lives
        if (kind, mutation) in DAMAGED:
            assert told.state == "failed"
            assert "its journal is damaged" in told.diags[-1]
            assert told.copies == 1


@pytest.mark.parametrize("command", journals.COMMANDS)
@pytest.mark.parametrize("forgery", journals.FORGERIES)
@pytest.mark.parametrize("behind", ["started", "exited"])
def test_a_forged_record_makes_no_job_finish_and_deletes_nothing(folder, behind, forgery, command):
    # Given: a pilot that died while its payload ran, or when that had failed, and before a byte was stored
    with journals.died(folder, behind, command, exit_code=0 if behind == "started" else 3) as world:
        forged = journals.FORGERIES[forgery](journals.lines_of(world), folder)
        for one in world.work.glob("job-*/work/*.out"):
            one.unlink()  # as if it had not written them yet
        # When: the next life reads what a payload has written
        told = journals.told(world, forged, folder)
        # Then
        assert told.violations == ()
        assert told.state == "failed"
        assert told.victim_lives


@pytest.mark.parametrize("command", journals.COMMANDS)
@pytest.mark.parametrize("forgery", ["exit status", "exit status with a seal", "a new life"])
def test_an_exit_status_that_the_pilot_has_not_written_counts_for_nothing(folder, forgery, command):
    # Given: a pilot that died while its payload ran, of a job that has no outputs to look at
    with journals.died(folder, "started", command, outputs=0) as world:
        forged = journals.FORGERIES[forgery](journals.lines_of(world), folder)
        # When: somebody writes that it had ended well
        told = journals.told(world, forged, folder)
        # Then
        assert (told.violations, told.state) == ((), "failed")
        assert "has not written that" in told.diags[-1]


# --- contents that no pilot has written, with the right checksum ---------------------------------------

WHOLE = {
    "life": {"life": "a", "pid": 1, "place": "here", "settings": {"queue": "Q"}},
    "asking": {},
    "nothing": {"lost": 1},
    "taken": {
        "job": 7, "attempt": 1, "identity": {"job_id": 7, "node": "n"}, "area": "/w/job-7-1-00000000", "cores": 1,
        "outputs": [{"lfn": "out", "guid": None, "may_be_missing": False}], "inputs": ["in"],
        "log": {"lfn": "log", "guid": "ab", "may_be_missing": False}, "zips": {"zip": ["out"]}, "seal": "",
        "hpo": {"task_id": 1, "output_file": "o", "metrics": ["m", "f"], "idds": None, "checkpoints": ["c"]},
    },
    "planned": {"destinations": {"out": [["http://a/out", "E", None]]}, "trusted": ["a"]},
    "starting": {"proof": {"mark": "ab" * 16, "boot_id": "b", "pid_namespace": 1, "cgroup": ""}},
    "started": {"proof": {"mark": "ab" * 16, "pid": 9, "start_ticks": 1, "boot_id": "b", "pid_namespace": 1}},
    "usage": {"memory_bytes": 1, "limit_bytes": 2, "oom_kills": 0, "usage": {"samples": 1, "gpus": [
        {"uuid": "G", "samples": 1, "utilisation": 1.0, "max_used_bytes": 1, "energy_j": None}]}},
    "stop": {"reason": "preempted"},
    "point": {"point": "1", "step": "leased", "event": "e", "number": 0, "loss": 1.0, "folder": "/w"},
    "exited": {"exit_code": 0, "cpu_s": 1.0, "max_rss_kib": 1, "seconds": 1.0, "stopped": False},
    "storing": {"files": ["out"], "destinations": {"out": [["http://a/out", "E", "http://b/out"]]}},
    "stored": {"lfn": "out", "guid": "ab", "size": 1, "checksum": "adler32:1", "url": "http://a/out", "endpoint": "E"},
    "final": {"fields": {"job_status": "failed", "pilot_error_code": 1}},
    "ended": {"verdict": "stored"},
    "left": {"code": 0},
    "damaged": {"what": "line 1", "as_name": "x"},
}  # fmt: skip
"""A journal with every kind of record."""

ODD = (
    None, True, -1, 10**30, 1.5, "", "a", "../../etc", "a\x00b", "\x1b[2J", "x" * 70_000, [], [1], ["a"], {}, {"a": 1},
    [[]], [{}], {"": ""}, {"../a": ["b"]}, {"out": [["http://a/out"]]}, {"out": [["file:///etc/passwd", 1, 2]]},
)  # fmt: skip
RAW = {
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "deep in a record": b'{"kind": "life", "time": 1, "settings": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001,
    "no number": b'{"kind": "taken", "time": NaN, "job": 7}',
    "infinite": b'{"kind": "taken", "time": 1e999, "job": 7}',
    "far too late": b'{"kind": "taken", "time": 1e18, "job": 7, "attempt": 1, "identity": {}}',
    "a long number": b'{"kind": "taken", "time": 1, "job": ' + b"9" * 5000 + b"}",
    "half a pair": b'{"kind": "taken", "time": 1, "job": 7, "attempt": 1, "identity": {"node": "\\ud800"}}',
    "no UTF-8": b'{"kind": "life", "time": 1, "life": "\xff"}',
    "a list": b"[1]",
    "a text": b'"life"',
    "nothing": b"",
    "a kind of another type": b'{"kind": [], "time": 1}',
    "no time": b'{"kind": "life"}',
    "time as text": b'{"kind": "asking", "time": "now"}',
}


def journal_of(records):
    return b"".join(journals.line(kind=kind, **facts) for kind, facts in records)


def test_the_table_has_every_kind_of_record():
    assert set(WHOLE) == set(RECORDS)


@pytest.mark.parametrize("kind", WHOLE)
def test_no_fact_of_the_wrong_type_comes_through(tmp_path, kind):
    before = [(one, facts) for one, facts in WHOLE.items() if one not in ("ended", "left", "damaged", kind)]
    for name in WHOLE[kind]:
        for odd in ODD:
            # Given: a journal of all kinds whose last record has one odd fact
            (tmp_path / NAME).write_bytes(journal_of([*before, (kind, {**WHOLE[kind], name: odd})]))
            # When: somebody reads it
            story = tell(read(tmp_path))
            # Then: it tells of the job, and of nothing that is not what it should be
            past = story.open or story.ended
            if kind != "taken":
                assert past.job_id == 7
            if past is not None:
                check(past)


def check(past):
    """No value of another type than it says; and all of it can be sent to a server."""
    json.dumps(dataclasses.asdict(past.usage) if past.usage else {})
    json.dumps(dict(past.identity)).encode()
    assert past.job_id > 0
    assert past.final is None or past.final["job_status"] in ("finished", "failed")
    assert past.payload is None or isinstance(past.payload.exit_code, int)
    assert all(file.size >= 0 for file in past.stored)
    assert all("/" not in lfn for lfn in past.destinations)


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("name", RAW)
def test_content_that_no_pilot_writes_is_damage_wherever_it_stands(tmp_path, name, place):
    # Given: a line with a right checksum among good ones
    raw = b"%08x %b\n" % (zlib.crc32(RAW[name]), RAW[name])
    good = journal_of([("life", WHOLE["life"]), ("taken", WHOLE["taken"])])
    (tmp_path / NAME).write_bytes(raw + good if place == "first" else good + raw)
    # When: the volume is taken
    with Journal.open(tmp_path) as journal:
        past = tell(journal.past).open
        journal.begin(life="b", settings={})
    # Then: the job is known, the damage is said, and kept
    assert past.job_id == 7
    assert past.damage
    assert (tmp_path / "journal.damaged-1").exists()
    # And: it is said once, to each life
    with Journal.open(tmp_path) as journal:
        assert tell(journal.past).open.damage
        journal.begin(life="c", settings={})
    assert len(list(tmp_path.glob("journal.damaged-*"))) == 1


def test_a_journal_of_ten_gigabytes_is_not_read_whole(tmp_path):
    # Given: a hole of 10 GB behind a job
    (tmp_path / NAME).write_bytes(journal_of([("life", WHOLE["life"]), ("taken", WHOLE["taken"])]))
    os.truncate(tmp_path / NAME, 10 << 30)
    # Then: the job is known, and the file is short again
    with Journal.open(tmp_path) as journal:
        past = tell(journal.past).open
    assert (past.job_id, "more than" in past.damage) == (7, True)
    assert (tmp_path / NAME).stat().st_size < 1 << 20


def test_records_without_number_are_damage(tmp_path):
    (tmp_path / NAME).write_bytes(journal_of([("taken", WHOLE["taken"])]) + journals.line(kind="a") * 250_000)
    with Journal.open(tmp_path) as journal:
        assert "records" in tell(journal.past).open.damage


def test_copies_of_damaged_journals_are_few(tmp_path):
    for number in range(6):
        (tmp_path / NAME).write_bytes(b"%d no record\n" % number)
        with Journal.open(tmp_path) as journal:
            journal.begin(life="a", settings={})
    names = sorted(one.name for one in tmp_path.glob("journal.*damaged*"))
    assert names == ["journal.damaged-1", "journal.damaged-2", "journal.damaged-3"]
    assert (tmp_path / names[2]).read_bytes().startswith(b"5")


@pytest.mark.parametrize("name", [NAME, f"{NAME}.owner", RESERVE_NAME, "pilot.log", "heartbeat", "credentials"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_of_ours_is_put_aside_and_the_volume_works(tmp_path, kind, name):
    # Given: something else in the place of a file of ours
    work, victim = tmp_path / "work", tmp_path / "victim"
    work.mkdir()
    victim.write_text("precious")
    (work / name).write_bytes(journal_of([("life", WHOLE["life"])]))
    attack(kind, victim, [work / name])
    # When: a pilot takes the volume
    assert make_scratch(Settings(work=str(work))) == work
    with Journal.open(work) as journal:
        journal.begin(life="b", settings={})
    # Then: it has a journal of its own, and has touched nobody's file
    assert tell(read(work)).life == "b"
    assert victim.read_text() == "precious"
    if (work / name).exists() and name != "credentials":
        assert stat.S_ISREG((work / name).lstat().st_mode)
        assert (work / name).stat().st_nlink == 1
    # And: so does the next one
    with Journal.open(work) as journal:
        assert tell(journal.past).life == "b"


def test_things_that_were_put_aside_do_not_fill_the_volume(tmp_path):
    for _ in range(4):
        (tmp_path / NAME).unlink(missing_ok=True)
        (tmp_path / NAME / "below").mkdir(parents=True)
        Journal.open(tmp_path).close()
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        NAME, f"{NAME}.odd", f"{NAME}.owner", RESERVE_NAME,
    ]  # fmt: skip


def test_a_journal_with_a_second_name_keeps_its_records_and_writes_into_one_file_only(tmp_path):
    with Journal.open(tmp_path) as journal:
        journal.begin(life="a", settings={})
    before = (tmp_path / NAME).read_bytes()
    (tmp_path / "second").hardlink_to(tmp_path / NAME)
    with Journal.open(tmp_path) as journal:
        assert tell(journal.past).life == "a"
        journal.begin(life="b", settings={})
    assert (tmp_path / "second").read_bytes() == before


def test_a_pilot_whose_journal_was_removed_has_its_volume_still(tmp_path):
    with Journal.open(tmp_path):
        (tmp_path / NAME).unlink()
        with pytest.raises(Busy):
            Journal.open(tmp_path)
    Journal.open(tmp_path).close()
