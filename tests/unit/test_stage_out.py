"""Outputs are stored where they belong, never over another file, and archives are made of them."""

import os
import zipfile

import pytest

from pilot.panda.decode import decode_job
from pilot.runner.archives import make_archives
from pilot.runner.area import JobArea
from pilot.runner.journal import Kind, read
from pilot.runner.lastfile import store_log
from pilot.runner.left import LeftFiles
from pilot.runner.outputs import stage_out
from pilot.runner.past import destinations_from, destinations_json, taken, tell
from pilot.staging.planning.plan import Trust, make_plan
from pilot.values.errors import BadJob, Exists, OutputMissing, OutputTooLarge, Stopped
from pilot.values.outcome import Outcome
from pilot.values.site import Site, deterministic_path, parse_queue, parse_storages
from pilot.values.stop import Reason
from tests.pods import a_pod

PROTOCOL = {"w": [{"endpoint": "https://near/", "path": "/d/"}]}
SITE = Site(parse_queue("Q", {"astorages": {"w": ["NEAR"]}}), parse_storages({"NEAR": {"arprotocols": PROTOCOL}}))
ZIPPED = "<ZIP_MAP>all.zip:a,b</ZIP_MAP>"


def place(name):
    return f"https://near/d/{deterministic_path('s', name)}"


def a_job(*outputs, **fields):
    names = {"outFiles": ",".join((*outputs, "log.tgz")), "logFile": "log.tgz", "scopeLog": "s"}
    definition = {"PandaID": 7, "attemptNr": 2, "transformation": "x", "scopeOut": ",".join("s" for _ in outputs)}
    return decode_job({**definition, **names, **fields})


class Bench:
    """A job whose payload has ended, in a pod."""

    def __init__(self, pod, job, **files):
        self.pod, self.job = pod, job
        self.area = JobArea.choose(pod.work, job.id, job.attempt)
        pod.journal.must(Kind.TAKEN, job=7, attempt=2, identity={}, **taken(job, self.area))
        self.area.made()
        for name, content in files.items():
            (self.area.work / name).write_bytes(content)
        self.destinations = make_plan(job, SITE, self.area.work, Trust()).destinations
        pod.journal.must(Kind.PLANNED, destinations=destinations_json(self.destinations))

    def store(self, begun=()):
        return stage_out(self.job, self.destinations, (), self.pod, self.area, self.pod.stop, begun)

    def store_log(self, **more):
        outcome = Outcome(None, None, (), self.pod.clock.now(), self.pod.clock.now())
        return store_log(self.job, outcome, self.destinations["log.tgz"], self.pod, self.area, **more)

    @property
    def past(self):
        """What a next life would know."""
        return tell(read(self.pod.work)).open


@pytest.fixture
def bench(tmp_path):
    with a_pod(tmp_path, SITE) as pod:
        yield Bench(pod, a_job("a", "b"), a=b"1", b=b"2")


@pytest.fixture
def renaming(tmp_path):
    with a_pod(tmp_path, SITE, existing_output="rename") as pod:
        yield Bench(pod, a_job("a", "b"), a=b"1", b=b"2")


def test_outputs_are_told_as_declared_with_the_place_that_was_used(bench):
    stored = bench.store()
    assert [(file.lfn, file.url, file.endpoint, file.size) for file in stored] == [
        ("a", place("a"), "NEAR", 1), ("b", place("b"), "NEAR", 1),
    ]  # fmt: skip
    assert bench.past.stored == stored


def test_another_file_at_an_outputs_place_is_left_alone(bench):
    bench.pod.lanes.put(place("b"), b"somebody else's")
    with pytest.raises(Exists) as caught:
        bench.store()
    assert caught.value.code == 1221
    assert bench.pod.lanes.content(place("b")) == b"somebody else's"
    assert bench.past.storing == {"a", "b"}


def test_with_rename_it_is_stored_beside_the_other_file(renaming):
    renaming.pod.lanes.put(place("a"), b"somebody else's")
    stored = renaming.store()
    assert [(file.lfn, file.url) for file in stored] == [("a", place("a") + ".7.2"), ("b", place("b"))]
    assert renaming.pod.lanes.content(place("a")) == b"somebody else's"
    assert renaming.pod.lanes.content(place("a") + ".7.2") == b"1"


def test_a_next_life_goes_on_at_the_renamed_place(renaming):
    renaming.pod.lanes.put(place("a"), b"somebody else's")
    renaming.store()
    past = renaming.past
    assert past.destinations["a"][0].url == place("a") + ".7.2"
    renaming.pod.lanes.put(place("a") + ".7.2", b"half of i")
    with past.area.reopened() as area:
        stored = stage_out(past.job, past.destinations, (), renaming.pod, area, renaming.pod.stop, past.storing)
    assert stored[0].url == place("a") + ".7.2"
    assert renaming.pod.lanes.content(place("a")) == b"somebody else's"


def test_with_overwrite_the_other_file_is_replaced(tmp_path):
    with a_pod(tmp_path, SITE, existing_output="overwrite") as pod:
        pod.lanes.put(place("a"), b"old")
        Bench(pod, a_job("a"), a=b"new").store()
        assert pod.lanes.content(place("a")) == b"new"


def test_what_an_earlier_life_has_begun_is_replaced(bench):
    bench.pod.lanes.put(place("a"), b"half")
    assert [file.lfn for file in bench.store(begun={"a"})] == ["a", "b"]
    assert bench.pod.lanes.content(place("a")) == b"1"


def test_the_log_of_another_attempt_is_kept_beside_ours(bench):
    bench.pod.lanes.put(place("log.tgz"), b"another attempt's")
    outcome = bench.store_log()
    assert outcome.cause is None
    assert [file.url for file in outcome.stored] == [place("log.tgz") + ".7.2"]
    assert bench.pod.lanes.content(place("log.tgz")) == b"another attempt's"


def test_half_a_log_of_an_earlier_life_is_replaced(bench):
    bench.pod.lanes.put(place("log.tgz"), b"half")
    assert [file.url for file in bench.store_log(begun=True).stored] == [place("log.tgz")]


def test_an_output_above_the_limit_is_refused_before_anything_is_sent(tmp_path):
    with a_pod(tmp_path, SITE, max_output=1) as pod:
        bench = Bench(pod, a_job("a", "b"), a=b"1", b=b"2" * (3 << 19))
        with pytest.raises(OutputTooLarge, match=r"output b has 1\.5 MiB, .* max_output allows 1") as caught:
            bench.store()
        assert caught.value.code == 1124
        assert pod.lanes.asked == []


def test_a_stop_says_how_many_were_stored(bench):
    bench.pod.stop.request(Reason.TOBEKILLED)
    with pytest.raises(Stopped, match="0 of 2 outputs were stored"):
        bench.store()


def test_ways_survive_the_journal(bench):
    assert destinations_from(destinations_json(bench.destinations)) == bench.destinations


# --- archives


def zipping(pod, zips=ZIPPED, outputs=("all.zip", "b"), files=None, **fields):
    return Bench(pod, a_job(*outputs, jobPars=zips, **fields), **({"a": b"1", "b": b"2"} if files is None else files))


def test_an_archive_is_made_of_its_members_and_stored(tmp_path):
    with a_pod(tmp_path, SITE) as pod:
        bench = zipping(pod)
        assert [file.lfn for file in bench.store()] == ["all.zip", "b"]
        with zipfile.ZipFile(pod.lanes.path(place("all.zip"))) as packed:
            assert packed.testzip() is None
            assert {one.filename: (packed.read(one), one.compress_type) for one in packed.infolist()} == {
                "a": (b"1", zipfile.ZIP_STORED), "b": (b"2", zipfile.ZIP_STORED),
            }  # fmt: skip
        assert not pod.lanes.path(place("a")).exists()
        assert sorted(one.name for one in bench.area.root.iterdir() if "zip" in one.name) == []


def test_the_same_files_give_the_same_archive_in_any_life(tmp_path):
    with a_pod(tmp_path, SITE) as pod:
        bench = zipping(pod)
        made = []
        for job in (bench.job, bench.past.job):
            make_archives(job, bench.area, LeftFiles(bench.area), (), lambda: None)
            made.append((bench.area.work / "all.zip").read_bytes())
            (bench.area.work / "all.zip").unlink()
        assert made[0] == made[1]


def test_an_archive_that_the_payload_has_made_is_used(tmp_path):
    with a_pod(tmp_path, SITE) as pod:
        zipping(pod, files={"b": b"2", "all.zip": b"my own"}).store()
        assert pod.lanes.content(place("all.zip")) == b"my own"


def test_a_member_that_is_missing_is_named(tmp_path):
    with a_pod(tmp_path, SITE) as pod:
        bench = zipping(pod, files={"b": b"2"})
        with pytest.raises(OutputMissing, match=r"no a for the archive all\.zip") as caught:
            bench.store()
        assert caught.value.code == 1165
        assert not (bench.area.work / "all.zip").exists()


def test_an_archive_that_may_be_missing_is_not_made_of_less(tmp_path):
    with a_pod(tmp_path, SITE) as pod:
        bench = zipping(pod, files={"b": b"2"}, allowNoOutput="all.zip")
        assert [file.lfn for file in bench.store()] == ["b"]


@pytest.mark.parametrize("kind", ["link", "directory", "fifo"])
def test_a_member_that_is_no_regular_file_does_not_get_into_an_archive(kind, tmp_path):
    with a_pod(tmp_path, SITE) as pod:
        bench = zipping(pod, files={"b": b"2"})
        path = bench.area.work / "a"
        {"link": lambda: path.symlink_to("/etc/passwd"), "directory": path.mkdir, "fifo": lambda: os.mkfifo(path)}[
            kind
        ]()
        with pytest.raises(OutputMissing):
            bench.store()


def test_a_stop_ends_the_making_of_an_archive_and_leaves_none(tmp_path):
    with a_pod(tmp_path, SITE) as pod:
        bench = zipping(pod)
        pod.stop.request(Reason.TOBEKILLED)
        with pytest.raises(Stopped):
            bench.store()
        assert sorted(one.name for one in bench.area.root.rglob("*zip*")) == []


def test_an_archive_must_be_a_declared_output():
    with pytest.raises(BadJob, match=r"all\.zip.*ZIP_MAP.*outFiles") as caught:
        a_job("a", jobPars=ZIPPED)
    assert (caught.value.field, caught.value.job_id) == ("jobPars", 7)


@pytest.mark.parametrize(("word", "meant"), [("on", True), ("off", False), ("OFF", False), ("NULL", None), ("x", None)])
def test_a_job_may_say_whether_a_second_storage_will_do(word, meant):
    assert a_job("a", altStageOut=word).alt_stage_out is meant
