import pytest
from hypothesis import assume, given
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
    assert split_parameters(text) == (left, queue, {}, {})


@pytest.mark.parametrize(
    "text", ["--overwriteQueueData", "--overwriteQueueData {", "--overwriteQueueData {x}", "--overwriteQueueData 5"]
)
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(BadJob, match="overwriteQueueData"):
        split_parameters(text)


@given(st.text(max_size=100))
def test_any_other_text_is_the_payloads_as_it_is(text):
    if "--overwrite" not in text:
        assert split_parameters(text).text == text


@pytest.mark.parametrize(
    ("text", "left", "zips"),
    [
        ("-a <ZIP_MAP>a.zip:f1,f2 b.zip:f3</ZIP_MAP> -b", "-a -b", {"a.zip": ("f1", "f2"), "b.zip": ("f3",)}),
        ("-a '<ZIP_MAP>a.zip:f1\n  b.zip:f2</ZIP_MAP>' -b", "-a -b", {"a.zip": ("f1",), "b.zip": ("f2",)}),
        ('"<ZIP_MAP>a.zip:f1</ZIP_MAP>"', "", {"a.zip": ("f1",)}),
        ("-c 'x <ZIP_MAP>a.zip:f1</ZIP_MAP>'", "-c 'x '", {"a.zip": ("f1",)}),
        ("<ZIP_MAP> </ZIP_MAP>", "", {}),
    ],
)
def test_a_zip_map_is_taken_out_with_its_quotes(text, left, zips):
    assert split_parameters(text) == (left, {}, {}, zips)


@pytest.mark.parametrize(
    "inner",
    ["a.zip", "a.zip:", ":f", "a.zip:f,", "a.zip:../f", "/a.zip:f", "a.zip:f a.zip:g", "a.zip:f,f", "a.zip:a.zip",
     "<ZIP_MAP>", "a.zip:-rf", "a.zip:$(x)"],
)  # fmt: skip
def test_a_zip_map_that_cannot_be_followed_is_refused(inner):
    with pytest.raises(BadJob, match="ZIP_MAP"):
        split_parameters(f"-a <ZIP_MAP>{inner}</ZIP_MAP>")


def test_a_zip_map_has_an_end_and_stands_once():
    for text in ("<ZIP_MAP>a.zip:f", "<ZIP_MAP>a.zip:f</ZIP_MAP> <ZIP_MAP>b.zip:g</ZIP_MAP>"):
        with pytest.raises(BadJob, match="ZIP_MAP"):
            split_parameters(text)


@given(st.text(alphabet="ab.:, \n'\"<>/-", max_size=40), st.text(max_size=10), st.text(max_size=10))
def test_any_zip_map_is_read_or_refused(inner, before, after):
    assume("--overwrite" not in before + after)
    try:
        found = split_parameters(f"{before}<ZIP_MAP>{inner}</ZIP_MAP>{after}")
    except BadJob as error:
        assert error.field == "jobPars"
    else:
        assert "<ZIP_MAP>" not in found.text
        assert all(members for members in found.zips.values())


def test_a_jobs_view_of_the_site_does_not_change_the_site():
    site = Site(Queue("Q", "R", maxinputsize_mib=100, timefloor_s=60), {})
    seen = overwritten(site, {"maxinputsize": 5, "unknown": 1}, {})
    assert (seen.queue.maxinputsize_mib, seen.queue.timefloor_s, seen.queue.name) == (5, 60, "Q")
    assert site.queue.maxinputsize_mib == 100
