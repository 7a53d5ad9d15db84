"""Queue and storage data of any shape: what is understood, or one clear line."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from pilot.values.decoding import DOCUMENT, decode_json
from pilot.values.errors import SiteError
from pilot.values.names import Lfn, Scope
from pilot.values.site import Queue, file_url, parse_queue, parse_storages, readable_storages

FIELDS = (
    *("nickname", "panda_resource", "atlas_site", "gstat", "status", "state", "is_cvmfs", "catchall", "environ"),
    *("timefloor", "maxtime", "maxwdir", "maxinputsize", "astorages", "params", "error"),
)
STORAGE = {"arprotocols": {"pr": [{"endpoint": "https://h", "path": "/p"}]}, "is_deterministic": True, "site": "S"}
VALUES = [
    *(None, "", "NULL", True, False, 0, -1, 10**63, 1.5, -2.5, "Infinity", "NaN", "-1e999", "1e308", "9" * 400),
    *("x" * 100_000, "a\0b", "\ud800", "../../x", "a\nb", [], [1], [[]], ["x" * 300], {}, {"": ""}, {"a": None}),
    *({"a": [1]}, {"pr": "RSE"}, {"pr": {"RSE": 1}}, "[" * 5000, "{'a': [", "{[]: 1}", "-" * 100_000, [{}], [None]),
]


def understood(parse, *arguments):
    """Whether it was; refused it has to be with one line that is not too long."""
    try:
        return parse(*arguments)
    except SiteError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 500
        return None


@pytest.mark.parametrize("field", FIELDS)
def test_a_queues_field_of_any_type_is_understood_or_refused(field):
    for value in VALUES:
        queue = understood(parse_queue, "Q", {"nickname": "Q", field: value})
        if queue is not None:
            assert all(0 <= one <= 60 * 10**9 for one in (queue.timefloor_s, queue.maxtime_s, queue.maxwdir_mib))
            assert "/" not in queue.name + queue.resource + queue.site
            assert (queue.name + queue.resource + queue.site).isprintable()
            assert isinstance(queue.param("stagein_via"), str)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "9" * 5000], ids=lambda text: text[:10])
def test_a_number_that_is_none_is_refused_by_the_name_of_its_field_if_anybody_reads_it(number):
    text = '{"nickname": "Q", "%s": %s}'
    with pytest.raises(SiteError, match="timefloor"):
        parse_queue("Q", decode_json(text % ("timefloor", number), DOCUMENT))
    assert parse_queue("Q", decode_json(text % ("pledgedcpu", number), DOCUMENT)).name == "Q"


@pytest.mark.parametrize("path", [("arprotocols",), ("arprotocols", "pr"), ("is_deterministic",), ("site",)], ids=str)
def test_a_storages_field_of_any_type_is_understood_or_refused(path):
    for value in VALUES:
        entry = {**STORAGE, path[0]: value if len(path) == 1 else {path[1]: value}}
        understood(parse_storages, {"RSE": entry})


@pytest.mark.parametrize("field", ["endpoint", "path"])
def test_a_protocols_field_of_any_type_gives_a_url_or_is_refused(field):
    for value in VALUES:
        entry = {"arprotocols": {"pr": [{"endpoint": "https://h", "path": "/p", field: value}]}}
        storages = understood(parse_storages, {"RSE": entry})
        if storages:
            (protocol,) = storages["RSE"].protocols["pr"]
            assert isinstance(protocol.origin + protocol.scheme, str)
            try:
                file_url(protocol, Scope("s"), Lfn("f"))
            except ValueError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:20])
def test_data_of_any_type_are_understood_or_refused(value):
    understood(parse_queue, "Q", value)
    understood(parse_storages, value)
    understood(parse_storages, {"RSE": value})


def test_a_storage_of_others_that_cannot_be_read_is_left_out_and_told():
    storages, unreadable = readable_storages({"GOOD": STORAGE, "BAD": 17, "../x": STORAGE})
    assert list(storages) == ["GOOD"]
    assert len(unreadable) == 2
    assert "BAD" in unreadable[0]


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text() | some.sampled_from(VALUES),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(), inner, max_size=3),
    max_leaves=8,
)


@given(some.dictionaries(some.sampled_from(FIELDS), JSON))
def test_any_queue_is_understood_or_refused(raw):
    queue = understood(parse_queue, "Q", raw)
    assert queue is None or isinstance(queue, Queue)


@given(some.dictionaries(some.sampled_from(["A", "B"]), JSON))
def test_any_storages_are_understood_or_refused(raw):
    understood(parse_storages, raw)
