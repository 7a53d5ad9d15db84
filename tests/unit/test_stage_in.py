"""Inputs come into the work directory: through metalinks, within the queue's limit, or not at all."""

import pytest

from pilot.panda.decode import decode_job
from pilot.runner.area import JobArea
from pilot.runner.inputs import check_inputs, stage_in
from pilot.staging.planning.metalink import MOST_BYTES
from pilot.staging.planning.plan import Trust, make_plan
from pilot.values.errors import FileMissing, InputsTooLarge, TransferFailed
from pilot.values.site import Queue, Site
from tests.pods import a_pod

META = b"""<metalink><file name="w"><size>5</size><url priority="1">http://dead/w</url>
<url priority="2">http://b/w</url></file></metalink>"""


def a_job(*urls, **fields):
    definition = {"PandaID": 1, "transformation": "x", "inFiles": "w", "inputUrls": {"w": list(urls)}, **fields}
    return decode_job(definition)


@pytest.fixture
def limited(tmp_path):
    with a_pod(tmp_path, Site(Queue("Q", "Q", maxinputsize_mib=1), {})) as pod:
        yield pod


def staged(job, pod):
    area = JobArea.choose(pod.work, job.id, job.attempt)
    area.made()
    check_inputs(job, pod)
    stage_in(job, make_plan(job, pod.site, area.work, Trust()), pod, area, pod.stop)
    return area


def test_what_a_metalink_names_is_what_the_payload_reads(limited):
    limited.lanes.put("http://a/w.meta4", META)
    limited.lanes.put("http://b/w", b"words")
    area = staged(a_job("http://a/w.meta4"), limited)
    assert [(file.name, file.read_bytes()) for file in area.work.iterdir()] == [("w", b"words")]
    assert limited.lanes.asked[-1].size == 5


def test_a_metalink_that_is_too_large_is_not_read_to_its_end(limited):
    limited.lanes.put("http://a/w.meta4", b" " * (4 * MOST_BYTES))
    with pytest.raises(TransferFailed, match="more than"):
        staged(a_job("http://a/w.meta4"), limited)


def test_a_metalink_that_is_not_there_fails_the_job(limited):
    with pytest.raises(FileMissing):
        staged(a_job("http://a/w.meta4"), limited)


def test_inputs_of_unknown_size_are_counted_as_they_come(limited):
    limited.lanes.put("http://a/w", b"x" * (3 << 20))
    with pytest.raises(InputsTooLarge, match="the queue allows 1"):
        staged(a_job("http://a/w"), limited)
    (asked,) = limited.lanes.asked
    assert not limited.lanes.path(asked.routes[0].destination).exists()


def test_a_size_that_only_a_metalink_knows_counts_before_a_byte_moves(limited):
    limited.lanes.put("http://a/w.meta4", META.replace(b">5<", b">5000000<"))
    with pytest.raises(InputsTooLarge):
        staged(a_job("http://a/w.meta4"), limited)
    assert len(limited.lanes.asked) == 1


def test_programs_can_be_executed(limited):
    limited.lanes.put("http://a/w", b"#!/bin/sh")
    area = staged(a_job("http://a/w", sandbox=["w"]), limited)
    assert (area.work / "w").stat().st_mode & 0o111 == 0o111
