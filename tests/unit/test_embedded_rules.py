"""The embedded server's rules, without a server."""

import contextlib
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.embedded import adder, definition, faults, jobs, view
from pilot.embedded.calls import CALLS
from pilot.embedded.database import Database, JobTable
from pilot.embedded.event_calls import EventCalls
from pilot.embedded.events import EventTable
from pilot.embedded.hpo.studies import Studies
from pilot.embedded.signatures import Crashed, Refused

UPDATE = CALLS["pilot", "update_job"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def record(**fields):
    given = {"outFiles": "a.txt,log.tgz", "inFiles": "in.txt", "logFile": "log.tgz"}
    return jobs.Record(
        **{"id": 1, "queue": "Q", "status": "running", "attempt": 1, "definition": given, "submitted": 0.0, **fields}
    )


def refusal(call, sent, method="POST"):
    with pytest.raises(Refused) as caught:
        call.check(method, sent)
    return str(caught.value)


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"job_status": "running"}, "Argument error: missing a required argument: 'job_id'"),
        ({"job_id": 1, "job_status": "running", "x": 1}, "Argument error: got an unexpected keyword argument 'x'"),
        ({"job_id": "1", "job_status": "running"}, "Type error: 'job_id' must be of type int, got str."),
        ({"job_id": 1.0, "job_status": "running"}, "Type error: 'job_id' must be of type int, got float."),
        (
            {"job_id": 1, "job_status": "running", "stdout": None},
            "Type error: 'stdout' must be of type str, got NoneType.",
        ),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_the_servers_words(sent, message):
    assert refusal(UPDATE, sent) == message


@pytest.mark.parametrize("name", ["job_output_report", "meta_data", "pilot_log", "stdout", "timeout"])
def test_null_is_refused_where_the_default_is_a_value(name):
    assert "got NoneType" in refusal(UPDATE, {"job_id": 1, "job_status": "running", name: None})


def test_null_is_accepted_everywhere_else():
    nulls = {name: None for name, (_, default) in UPDATE.fields.items() if default is None}
    assert len(nulls) > 40
    UPDATE.check("POST", {"job_id": 1, "job_status": "running", **nulls})


def test_a_wrong_type_in_a_union_crashes():
    with pytest.raises(Crashed, match="UnionType"):
        UPDATE.check("POST", {"job_id": 1, "job_status": "running", "max_rss": "1"})


def test_a_bool_passes_as_an_int():
    assert UPDATE.check("POST", {"job_id": True, "job_status": "running"})["job_id"] is True


def test_lists_in_a_query_are_cast():
    call = CALLS["pilot", "get_job_status"]
    assert call.check("GET", {"job_ids": "7"})["job_ids"] == [7]
    assert call.check("GET", {"job_ids": ["7", "8"]})["job_ids"] == [7, 8]
    expected = "Type error: 'job_ids' with value '['7,8']' could not be casted to type List from list."
    assert refusal(call, {"job_ids": "7,8"}, "GET") == expected


@given(st.dictionaries(st.sampled_from([*UPDATE.fields, "x"]), JSON))
def test_any_arguments_are_bound_refused_or_crash_as_foreseen(sent):
    try:
        arguments = UPDATE.check("POST", {"job_id": 1, "job_status": "running", **sent})
    except (Refused, Crashed):
        return
    if arguments["job_status"] in jobs.SENT_BY_PILOTS:
        after, _ = jobs.update(record(), arguments, 1.0)
        assert after is None or after.status in jobs.SENT_BY_PILOTS


@given(st.lists(st.sampled_from(jobs.SENT_BY_PILOTS), max_size=12))
def test_whatever_the_order_only_the_first_final_is_kept(statuses):
    now = record(status="sent")
    finals = [status for status in statuses if status in ("finished", "failed")]
    for status in statuses:
        now = jobs.update(now, {"job_status": status}, 1.0)[0] or now
    assert now.final == (finals[0] if finals else "")
    assert (now.status == "holding") if finals else now.active


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("pilot_error_diag", "x" * 600, "x" * 500),
        ("batch_id", "x" * 90, "x" * 80),
        ("tot_rchar", 2048.0, 2),
        ("tot_rchar", 2**60, 10**10 - 1),
        ("rate_rchar", 1024, 1),
        ("max_rss", 10.5, 10),
        ("max_rss", math.nan, None),
        ("start_time", "2026-11-22T13:00:00Z", None),
        ("start_time", "2026-11-22 13:00:00", "2026-11-22 13:00:00"),
        ("pilot_error_code", -5, -5),
        ("job_metrics", "", None),
    ],
)
def test_fields_are_stored_as_the_server_shapes_them(name, value, stored):
    after, _ = jobs.update(record(), {"job_status": "running", name: value}, 1.0)
    assert after.fields.get(name) == stored


def test_meta_data_of_an_unknown_job_cannot_be_added():
    assert jobs.update(None, {"job_status": "running", "meta_data": "{}"}, 1.0) == (None, jobs.NO_META_DATA)


ENTRY = '{"guid": "", "fsize": "0", "md5sum": "%s"}' % ("a" * 32)


def test_an_empty_guid_a_size_in_text_and_an_input_are_no_reason_to_fail():
    report = f'{{"a.txt": {ENTRY}, "log.tgz": {ENTRY}, "in.txt": {{"guid": "g"}}}}'
    assert adder.judge(record(final="finished", report=report)) == adder.Verdict("finished")


def test_a_pilot_error_does_not_fail_a_finished_job_whose_report_is_good():
    report = f'{{"a.txt": {ENTRY}, "log.tgz": {ENTRY}}}'
    told = record(final="finished", report=report, fields={"pilot_error_code": 1305})
    assert adder.judge(told).state == "finished"


def test_a_job_without_any_output_needs_no_report():
    assert adder.judge(record(final="finished", definition={})).state == "finished"


def test_an_output_that_may_be_missing_may_be_missing():
    given = {"outFiles": "a.txt,log.tgz", "allowNoOutput": "a.txt"}
    told = record(final="finished", definition=given, report=f'{{"log.tgz": {ENTRY}}}')
    assert adder.judge(told).state == "finished"


@given(st.text() | JSON.map(repr), JSON)
def test_the_adder_survives_any_report_and_definition(report, names):
    told = record(final="finished", report=report, definition={"outFiles": names, "inFiles": names})
    assert adder.judge(told).state in ("finished", "failed")


@given(
    JSON
    | st.fixed_dictionaries(
        {"definition": st.dictionaries(st.sampled_from(["command", "outputs", "inputs", "cores"]), JSON)}
    )
)
def test_anything_submitted_is_a_job_or_a_value_error(body):
    with contextlib.suppress(ValueError):
        given = definition.parse(body)
        assert given.queue
        assert given.build(7)["PandaID"] == 7


@given(JSON)
def test_any_fault_script_is_rules_or_a_value_error(raw):
    with contextlib.suppress(ValueError):
        assert all(rule.match for rule in faults.parse(raw))


@pytest.mark.parametrize(
    ("timing", "meta_data", "phases"),
    [
        ("1|2|3|4|5|6", "", (2, 3, 4)),
        ("", "", (0, 0, 0)),
        ("x|y", "not JSON", (0, 0, 0)),
        ("1|2|3|4|5|6", '{"timing": {"payload": 7.5}}', (2, 7.5, 4)),
        ("1|2|3|4|5|6", '{"timing": {"payload": "nan", "stage_in": -1}}', (0, 0, 4)),
    ],
)
def test_the_seconds_come_from_meta_data_or_the_pilots_timing(timing, meta_data, phases):
    told = view.status(record(fields={"pilot_timing": timing}, meta_data=meta_data), [])["seconds"]
    assert (told["stage_in"], told["payload"], told["stage_out"]) == phases


def test_the_verdict_is_told_when_the_pilot_said_finished():
    told = record(status="failed", final="finished", error_diag="expected output", fields={"pilot_error_diag": "ok"})
    assert view.status(told, [])["pilot_error_diag"] == "expected output"


def test_the_pilots_words_are_told_when_it_failed_the_job_itself():
    told = record(status="failed", final="failed", error_diag="no report", fields={"pilot_error_diag": "boom"})
    assert view.status(told, [])["pilot_error_diag"] == "boom"


REPORTS = st.lists(
    JSON
    | st.fixed_dictionaries(
        {},
        optional={
            "eventRangeID": st.sampled_from(["1-1-100-1-3", "1-9-1-1-1", "a-b"]) | JSON,
            "eventStatus": st.sampled_from(["finished", "failed", "fatal", "running"]) | JSON,
            "errorCode": JSON,
            "errorDiag": JSON,
            "eventRanges": JSON,
            "zipFile": JSON,
        },
    ),
    max_size=5,
)


@given(REPORTS, st.sampled_from([-1, 0, 1, 2]))
def test_any_report_of_ranges_is_answered(reports, version):
    database = Database(Path(":memory:"), durable=False)
    try:
        JobTable(database)
        events = EventTable(database)
        calls = EventCalls(events, {1: record(id=1)}.get, Studies(database, events), broken=False)
        asked = {"event_ranges": json.dumps(reports), "version": version}
        told = calls.handlers()["event/update_event_ranges"](asked, None)
    finally:
        database.close()
    assert json.dumps(told)
    assert told["success"] is False or set(told["data"]) == {"Returns", "Commands"}
