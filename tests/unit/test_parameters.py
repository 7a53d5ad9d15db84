import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.panda.parameters import split_parameters
from pilot.values.errors import BadJob
from pilot.values.site import Queue, Site, overwritten


@pytest.mark.parametrize(
    ("text", "left", "queue"),
    [
        ("-c 'echo x'", "-c 'echo x'", {}),
        ("""a --overwriteQueueData {"maxinputsize": 5} b""", "a b", {"maxinputsize": 5}),
        ("--overwriteQueueData={'a': {'b': 1}}", "", {"a": {"b": 1}}),
    ],
)
def test_what_is_the_pilots_is_taken_out_of_the_parameters(text, left, queue):
    assert split_parameters(text) == (left, queue, {})


@pytest.mark.parametrize(
    "text", ["--overwriteQueueData", "--overwriteQueueData {", "--overwriteQueueData {x}", "--overwriteQueueData 5"]
)
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(BadJob, match="overwriteQueueData"):
        split_parameters(text)


@given(st.text(max_size=100))
def test_any_other_text_is_the_payloads_as_it_is(text):
    if "--overwrite" not in text:
        assert split_parameters(text)[0] == text


def test_a_jobs_view_of_the_site_does_not_change_the_site():
    site = Site(Queue("Q", "R", maxinputsize_mib=100, timefloor_s=60), {})
    seen = overwritten(site, {"maxinputsize": 5, "unknown": 1}, {})
    assert (seen.queue.maxinputsize_mib, seen.queue.timefloor_s, seen.queue.name) == (5, 60, "Q")
    assert site.queue.maxinputsize_mib == 100
