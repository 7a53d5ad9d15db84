"""The clients of hyper-parameter points against recorded and documented answers: iDDS, events, checkpoints.

The table says what each answer that a live iDDS 2.6.21 was recorded to give leads to; ``pytest -s`` prints it.
"""

import ast
import json
import math
import re
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from pilot.net.credentials import CredentialFiles, Credentials
from pilot.net.transport import Transport
from pilot.panda.checkpoints import CheckpointClient
from pilot.panda.events import EventClient
from pilot.panda.idds import DirectIdds, RelayedIdds
from pilot.panda.wire import Wire
from pilot.values.errors import CredentialError, ServerGarbled, ServerRefused, ServerUnavailable
from pilot.values.hpo import Point
from tests.contract.canned import Canned

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "idds-live-exchanges.jsonl").read_text().splitlines()
]
NOT_OURS = "/idds/ping"
"""Not asked: a point's own request says as much."""

DECISIONS = {
    "hpo GET all points (id, status, limit = null)": "5 points, 0 with a loss",
    "hpo GET by workload only": "5 points, 0 with a loss",
    "hpo GET by request only": "5 points, 0 with a loss",
    "hpo GET one id": "point 2, without a loss",
    "hpo GET unknown id": "no such point",
    "hpo GET status=New by name": "give up",  # filters: we never send them
    "hpo GET status=0 (enum value of New)": "give up",
    "hpo GET limit=2": "give up",
    "hpo GET limit=2 status New": "give up",
    "hpo GET unknown request": "0 points, 0 with a loss",
    "hpo GET both null": "5 points, 0 with a loss",
    "hpo GET non-numeric workload": "give up",
    "hpo PUT loss": "stored",
    "hpo PUT loss, workload null": "stored",
    "hpo PUT loss again (overwrites)": "stored",
    "hpo PUT nan": "stored",
    "hpo PUT not a number": "give up",
    "hpo PUT unknown id": "give up",
    "hpo PUT unknown request": "give up",
    "hpo PUT both null": "give up",
    "hpo GET all after the PUTs": "5 points, 3 with a loss",
    "hpo GET status=New after the PUTs": "give up",
    "hpo GET status=1 (Available?)": "give up",
    "hpo POST not allowed": "give up",
    "hpo GET wrong path": "give up",
    "hpo GET without credentials": "refresh",
    "hpo GET with OIDC headers": "point 1, without a loss",
    "hpo GET with bad OIDC token": "refresh",
    "hpo GET with OIDC, VO not allowed": "refresh",
    "hpo GET with Authorization Bearer only": "refresh",
    "hpo GET spoofed SSL-CLIENT-S-DN header (!)": "point 1, without a loss",
    "PanDA relay -> iDDS get_hyperparameters": "5 points, 3 with a loss",
    "PanDA relay -> iDDS get_hyperparameters (client class, not manager)": "5 points, 3 with a loss",
    "PanDA relay -> iDDS update_hyperparameter": "stored",
    "PanDA relay -> unknown command": "give up",
    "PanDA relay as plain user": "point 0, with a loss",
}


@pytest.fixture
def server():
    one = Canned()
    yield one
    one.close()


@pytest.fixture
def transport(server):
    one = Transport(server.url)
    yield one
    one.close()


@pytest.fixture
def direct(server, transport):
    return DirectIdds(transport, server.url, None, "test")


@pytest.fixture
def wire(server, transport):
    return Wire(transport, server.url, "test")


def ok(data):
    return 200, json.dumps({"success": True, "message": "", "data": data}).encode()


def no(message):
    return 200, json.dumps({"success": False, "message": message, "data": None}).encode()


def sent_json(server):
    return json.loads(server.requests[-1].body)


# --- the table --------------------------------------------------------------------------------------


def asked(exchange):
    """The call of ours that is like the recorded one: its name, and the point that it names."""
    if "relay" in exchange["path"]:
        body = json.loads(exchange["body"])
        point = json.loads(body.get("kwargs", "{}")).get("id")
        return ("tell" if "update" in body["command_name"] else "get"), None if point is None else str(point)
    segments = exchange["path"].split("/")
    point = segments[5] if len(segments) > 5 and segments[5] != "null" else None
    return ("tell" if exchange["method"] != "GET" else "get"), point


def decide(idds, call, point):
    try:
        if call == "tell":
            idds.tell(1001, point or "1", 0.5)
            return "stored"
        if point is None:
            found = idds.points(1001)
            return f"{len(found)} points, {sum(one.loss is not None for one in found)} with a loss"
        one = idds.point(1001, point)
    except (ServerUnavailable, ServerGarbled):
        return "retry"
    except ServerRefused:
        return "give up"
    except CredentialError:
        return "refresh"
    return "no such point" if one is None else f"point {one.id}, with{'out' if one.loss is None else ''} a loss"


def test_every_recorded_answer_leads_to_its_decision(server, direct, wire):
    wrong, asked_for = [], [one for one in RECORDED if one["path"] != NOT_OURS]
    for exchange in asked_for:
        server.answers = [(exchange["status"], exchange["reply"].encode(), ast.literal_eval(exchange["reply_headers"]))]
        server.answers[0][2].pop("Content-Length", None)
        server.answers[0][2].pop("Transfer-Encoding", None)
        decision = decide(RelayedIdds(wire) if "relay" in exchange["path"] else direct, *asked(exchange))
        print(f"{exchange['status']} {decision:<26} {exchange['name']}")
        if decision != DECISIONS[exchange["name"]]:
            wrong.append((exchange["name"], decision))
    assert wrong == []
    print(f"{len(RECORDED) - len(asked_for)} exchanges are calls that are not made: {NOT_OURS}")
    assert {one["name"] for one in asked_for} == set(DECISIONS)
    assert (len(RECORDED), len(asked_for)) == (38, 36)


def test_what_is_said_of_a_refusal_is_one_line_without_sql(server, direct):
    for exchange in RECORDED:
        headers = ast.literal_eval(exchange["reply_headers"])
        if exchange["status"] == 200:
            continue
        server.answers = [(exchange["status"], b"", {"ExceptionMessage": headers["ExceptionMessage"]})]
        with pytest.raises((ServerUnavailable, ServerRefused, CredentialError)) as caught:
            direct.points(1001)
        text = str(caught.value)
        assert "SELECT" not in text
        assert "doma_idds" not in text
        assert "\n" not in text
        assert len(text) < 300
        assert headers["ExceptionMessage"].removeprefix('{"msg": "')[:15] in text


# --- iDDS -------------------------------------------------------------------------------------------


def test_a_point_is_asked_for_in_the_path_that_was_recorded(server, direct):
    server.answers = [(200, b'[{"id": 7, "loss": null, "parameters": [1, {"lr": 0.1}]}]')]
    assert direct.point(31, "7") == Point("7", [1, {"lr": 0.1}])
    assert (server.requests[0].method, server.requests[0].path) == ("GET", "/idds/hpo/31/null/7/null/null")
    assert server.requests[0].headers["accept"] == "application/json"


@pytest.mark.parametrize("loss", [0.0, -1.5e-07, 1e-05, 0.1 + 0.2, 1e22, 5])
def test_a_loss_arrives_to_the_last_digit(server, direct, loss):
    server.answers = [(200, b'{"message": "update successfully", "status": 0}')]
    direct.tell(31, "7", loss)
    path = server.requests[0].path
    assert server.requests[0].method == "PUT"
    assert path.startswith("/idds/hpo/31/null/7/")
    assert float(path.rpartition("/")[2]) == loss


@pytest.mark.parametrize(
    "body",
    [b'{"message": "no", "status": 1}', b"{}", b"[]", b'{"data": {"status": 2}}', b'{"data": null, "status": 1}'],
)
def test_an_answer_that_does_not_say_that_a_loss_is_stored_is_tried_again(server, direct, body):
    server.answers = [(200, body)]
    with pytest.raises(ServerUnavailable) as caught:
        direct.tell(31, "7", 0.5)
    assert caught.value.maybe_done


@pytest.mark.parametrize("point", ["../1", "1/2", "", "7?x", "-1", "null", "1 ", "\u0661", "9" * 19])
def test_only_a_number_goes_into_a_path(server, direct, wire, point):
    for call in (
        lambda: direct.point(31, point),
        lambda: direct.tell(31, point, 0.5),
        lambda: RelayedIdds(wire).point(31, point),
        lambda: CheckpointClient(wire).delete(31, point),
        lambda: CheckpointClient(wire).get(server.url, 31, point, Path("never"), 10),
    ):
        with pytest.raises(ServerRefused, match="no number"):
            call()
    assert server.requests == []


def test_an_unknown_id_of_an_embedded_server_is_not_tried_again(server, direct):
    server.answers = [(404, b"", {"ExceptionClass": "NoObject", "ExceptionMessage": "no point 7 of task 31"})]
    with pytest.raises(ServerRefused, match="no point 7 of task 31"):
        direct.tell(31, "7", 0.5)


def test_a_500_without_a_word_is_tried_again(server, direct):
    server.answers = [(500, b"")]
    with pytest.raises(ServerUnavailable, match="no reason given") as caught:
        direct.tell(31, "7", 0.5)
    assert caught.value.maybe_done


@pytest.mark.parametrize("body", [b"", b"<html>", b"7", b'[{"loss": 1}]', b"[7]", b"[" * 100_000])
def test_an_answer_that_is_no_list_of_points_is_garbled(server, direct, body):
    server.answers = [(200, body)]
    with pytest.raises(ServerGarbled):
        direct.points(31)


def test_an_answer_in_an_envelope_of_idds_is_read(server, direct):
    server.answers = [(200, b'{"data": [{"id": "1", "loss": 2, "parameters": {}}], "error": null, "status": 0}')]
    assert direct.points(31) == [Point("1", {}, 2.0)]


def test_a_loss_of_zero_is_a_loss(server, direct):
    server.answers = [(200, b'[{"id": "1", "loss": 0.0, "parameters": {}}]')]
    assert direct.point(31, "1").loss == 0.0


# --- credentials of iDDS ----------------------------------------------------------------------------


def headers_of(name):
    exchange = next(one for one in RECORDED if one["name"] == name)
    return ast.literal_eval(re.search(r"headers (\{.*\}); no body", exchange["request"])[1])


@pytest.fixture
def login(tmp_path):
    """The recorded token, as a pod holds it."""
    recorded = headers_of("hpo GET with OIDC headers")
    file = tmp_path / "token"
    file.write_text(recorded["X-IDDS-Auth-Token"])
    files = CredentialFiles(token=str(file), origin="wlcg.production")
    return Credentials(files, lambda _: None, lambda: 1_800_000_000.0), file, recorded


def test_a_token_goes_to_idds_as_it_was_recorded(server, transport, login):
    credentials, _, recorded = login
    server.answers = [(200, b"[]")]
    DirectIdds(transport, server.url, credentials, "test").points(31)
    sent = server.requests[0].headers
    assert {name: sent.get(name.lower()) for name in recorded} == recorded
    assert "authorization" not in sent


def test_a_token_that_was_replaced_meanwhile_is_tried_before_anybody_is_told(server, transport, login):
    credentials, file, _ = login
    idds = DirectIdds(transport, server.url, credentials, "test")
    original = transport.call

    def rotating(*args, **kwargs):
        answer = original(*args, **kwargs)
        file.write_text("fresh")
        return answer

    transport.call = rotating
    server.answers = [(401, b"", {"ExceptionMessage": "expired"}), (200, b"[]")]
    assert idds.points(31) == []
    assert server.requests[1].headers["x-idds-auth-token"] == "fresh"


def test_a_token_does_not_go_to_idds_without_tls(login):
    transport = Transport("http://idds.example")
    with pytest.raises(CredentialError, match="TLS"):
        DirectIdds(transport, "http://idds.example", login[0], "test").points(31)
    transport.close()


# --- the relay --------------------------------------------------------------------------------------


def test_the_relay_is_asked_as_it_was_recorded(server, wire):
    server.answers = [ok([{"id": "7", "loss": None, "parameters": {}}])]
    assert RelayedIdds(wire).point(31, "7") == Point("7", {})
    assert server.requests[0].path == "/api/v1/idds/relay_idds_command"
    body = sent_json(server)
    assert body["command_name"] == "get_hyperparameters"
    assert json.loads(body["kwargs"]) == {"workload_id": 31, "request_id": None, "id": "7"}
    server.answers = [ok({"message": "update successfully", "status": 0})]
    RelayedIdds(wire).tell(31, "7", 0.231)
    assert json.loads(sent_json(server)["kwargs"]) == {"workload_id": 31, "request_id": None, "id": "7", "loss": 0.231}


def test_a_relay_without_a_credential_says_so(server, wire):
    server.answers = [no("SSL secure connection is required")]
    with pytest.raises(CredentialError, match="SSL secure connection is required"):
        RelayedIdds(wire).points(31)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("failed to execute: list index out of range", ServerRefused),
        ("failed to execute: HTTPSConnectionPool(host='idds', port=443): Max retries exceeded", ServerUnavailable),
        ("no_such_thing is not a command of iDDS Client", ServerRefused),
    ],
)
def test_what_the_relay_could_not_do_is_told_from_what_never_works(server, wire, message, error):
    server.answers = [no(message)]
    with pytest.raises(error):
        RelayedIdds(wire).tell(31, "7", 0.5)


def test_an_older_server_has_an_older_relay(server, wire):
    server.answers = [(404, b""), (200, b'[true, [{"id": "7", "loss": NaN, "parameters": {}}]]'), (200, b"[true, []]")]
    idds = RelayedIdds(wire)
    assert math.isnan(idds.point(31, "7").loss)
    assert idds.points(31) == []
    old = server.requests[1]
    assert old.path == "/server/panda/relay_idds_command"
    assert parse_qs(old.body.decode())["command_name"] == ["get_hyperparameters"]
    assert server.requests[2].path == old.path


# --- the table of drift and bugs (hpo-contract.md 0.2) ----------------------------------------------

RANGE = {"eventRangeID": "31-65-0-7-5", "startEvent": 7, "lastEvent": 7, "LFN": None, "GUID": None, "scope": None}
FORBIDDEN = (403, b"ERROR : method getEventRanges is forbidden", {"Content-Type": "text/plain"})


def test_b1_the_new_event_calls_are_used_where_a_server_has_them(server, wire):
    server.answers = [ok([RANGE]), ok({"Command": '{"65": null}'})]
    events = EventClient(wire)
    assert [one.process_id for one in events.acquire(65, 0, 31, 4, 987654)] == ["7"]
    assert sent_json(server) == {"job_id": 65, "jobset_id": 0, "task_id": 31, "n_ranges": 4, "segment_id": 987654}
    assert events.finish("31-65-0-7-5") == ""
    assert sent_json(server) == {"event_range_id": "31-65-0-7-5", "event_range_status": "finished"}
    assert [one.path for one in server.requests] == [
        "/api/v1/event/acquire_event_ranges",
        "/api/v1/event/update_single_event_range",
    ]


@pytest.mark.parametrize("unknown", [(404, b"Not Found"), FORBIDDEN])
def test_b1_a_server_without_them_gets_the_older_calls_and_is_not_asked_again(server, wire, unknown):
    server.answers = [
        unknown,
        (200, json.dumps({"StatusCode": 0, "eventRanges": [RANGE]}).encode()),
        (200, b'{"StatusCode": 0, "Returns": [true], "Command": {"65": "softkill"}}'),
        (200, b'{"65": {"31-65-0-7-5": {"status": "finished", "error": null, "dialog": null}}}'),
        (200, b'{"StatusCode": 0, "eventRanges": []}'),
    ]
    events = EventClient(wire)
    assert len(events.acquire(65, 0, 31, 1, 987654)) == 1
    assert events.finish("31-65-0-7-5") == "softkill"
    assert events.statuses(65, 31) == {("31", "65", "0", "7"): "finished"}
    assert events.acquire(65, 0, 31, 1) == []
    assert [one.path.rpartition("/")[2] for one in server.requests] == [
        "acquire_event_ranges",
        "getEventRanges",
        "updateEventRanges",
        "get_events_status",
        "getEventRanges",
    ]
    taken, told = (parse_qs(server.requests[number].body.decode()) for number in (1, 2))
    assert taken == {
        "pandaID": ["65"], "jobsetID": ["0"], "taskID": ["31"], "nRanges": ["1"], "segment_id": ["987654"],
    }  # fmt: skip
    assert json.loads(told["eventRanges"][0]) == [{"eventRangeID": "31-65-0-7-5", "eventStatus": "finished"}]
    assert server.requests[1].headers["content-type"] == "application/x-www-form-urlencoded"


def test_b1_a_server_that_knows_neither_is_told_by_the_new_call(server, wire):
    server.answers = [(404, b"new"), FORBIDDEN] * 2
    for _ in range(2):
        with pytest.raises(ServerRefused, match="acquire_event_ranges: HTTP 404"):
            EventClient(wire).acquire(65, 0, 31, 1)


@pytest.mark.parametrize("code", [10, 30])
def test_b1_a_status_code_of_the_older_calls_that_passes_is_tried_again(server, wire, code):
    server.answers = [(404, b""), (200, b'{"StatusCode": %d}' % code), (404, b""), (200, b'{"StatusCode": 0}')]
    events = EventClient(wire)
    with pytest.raises(ServerUnavailable, match=f"StatusCode {code}"):
        events.acquire(65, 0, 31, 1)
    with pytest.raises(ServerGarbled):
        events.acquire(65, 0, 31, 1)


def test_b2_the_broken_bulk_update_is_not_used_for_points(server, wire):
    server.answers = [ok({"Command": "{}"})]
    EventClient(wire).finish("31-65-0-7-5")
    assert server.requests[0].path == "/api/v1/event/update_single_event_range"


def test_b3_both_names_of_the_job_go_with_the_question_for_statuses(server, wire):
    server.answers = [ok({"65": {"31-65-0-7-5": {"status": "sent", "error": None, "dialog": None}}})]
    assert [(one.id, one.process_id) for one in EventClient(wire).held(65, 31)] == [("31-65-0-7-5", "7")]
    asked_for = json.loads(parse_qs(server.requests[0].path.partition("?")[2])["job_task_ids"][0])
    assert asked_for == [{"task_id": 31, "panda_id": 65, "job_id": 65}]


def test_b4_a_role_that_is_missing_is_a_matter_of_credentials_and_said_word_by_word(server, wire):
    server.answers = [no("production or pilot role required")]
    with pytest.raises(CredentialError, match=r"production or pilot role required$"):
        EventClient(wire).acquire(65, 0, 31, 1)


def test_b6_each_answer_is_read_once(server, wire):
    """The wrapper's stale reply file has no counterpart here: two questions, two answers."""
    server.answers = [ok([RANGE]), ok([])]
    events = EventClient(wire)
    assert (len(events.acquire(65, 0, 31, 1)), len(events.acquire(65, 0, 31, 1))) == (1, 0)


def test_b10_no_filter_is_ever_sent(server, direct):
    server.answers = [(200, b"[]")] * 2
    direct.points(31)
    direct.point(31, "7")
    assert [one.path for one in server.requests] == [
        "/idds/hpo/31/null/null/null/null",
        "/idds/hpo/31/null/7/null/null",
    ]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_b11_a_loss_that_is_no_number_is_not_told(server, direct, wire, loss):
    for idds in (direct, RelayedIdds(wire)):
        with pytest.raises(ServerRefused, match="not a finite number"):
            idds.tell(31, "7", loss)
    assert server.requests == []


@pytest.mark.parametrize("told", ["NaN", "Infinity", '"diverged"', "{}", "true"])
def test_b11_whatever_somebody_has_told_is_a_loss_that_is_there(server, direct, wire, told):
    points = f'[{{"id": "4", "loss": {told}, "parameters": {{}}}}]'.encode()
    server.answers = [(200, points), (200, b'{"success": true, "message": "", "data": ' + points + b"}")]
    assert math.isnan(direct.point(31, "4").loss)
    assert math.isnan(RelayedIdds(wire).point(31, "4").loss)


# --- events -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ('{"65": "tobekilled"}', "tobekilled"),
        ({"65": "softkill"}, "softkill"),
        ('{"65": null}', ""),
        ("{}", ""),
        ("nonsense", ""),
        (None, ""),
    ],
)
def test_a_command_for_the_job_comes_with_the_answer(server, wire, command, word):
    server.answers = [ok({"Command": command})]
    assert EventClient(wire).finish("31-65-0-7-5") == word


@pytest.mark.parametrize(
    ("ranges", "outcome"),
    [
        ({"31-65-0-7-5": {"status": "finished"}}, ""),
        ({"31-65-0-7-5": {"status": "sent"}}, ServerUnavailable),
        ({"31-65-0-7-5": {"status": "failed"}}, ServerRefused),
        ({}, ServerRefused),
    ],
)
def test_a_database_error_is_decided_by_what_the_server_shows(server, wire, ranges, outcome):
    server.answers = [no("database error in the PanDA server"), ok({"65": ranges} if ranges else {})]
    if outcome == "":
        assert EventClient(wire).finish("31-65-0-7-5") == ""
    else:
        with pytest.raises(outcome):
            EventClient(wire).finish("31-65-0-7-5")


# --- checkpoints ------------------------------------------------------------------------------------


@pytest.fixture
def tarball(tmp_path):
    file = tmp_path / "checkpoint"
    file.write_bytes(bytes(range(256)) * 1000)
    return file


def part(request):
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    head, _, rest = request.body.partition(b"\r\n\r\n")
    assert request.body.startswith(b"--" + boundary)
    return head.decode(), rest.removesuffix(b"\r\n--" + boundary + b"--\r\n")


def test_a_checkpoint_is_one_part_named_by_task_and_point(server, wire, tarball):
    server.answers = [ok("/cache/hpo_cp_31_7")]
    CheckpointClient(wire).put(31, "7", tarball)
    head, content = part(server.requests[0])
    assert server.requests[0].path == "/api/v1/file_server/upload_hpo_checkpoint"
    assert 'name="file"; filename="31_7"' in head
    assert content == tarball.read_bytes()
    assert "transfer-encoding" not in server.requests[0].headers  # chunked: the server answers 411


def test_an_older_server_takes_and_drops_checkpoints_by_its_own_calls(server, wire, tarball):
    server.answers = [
        (404, b""),
        (200, b'{"status": true, "message": "successfully placed"}'),
        (200, b'{"status": false, "message": "no such file"}'),
    ]
    checkpoints = CheckpointClient(wire)
    checkpoints.put(31, "7", tarball)
    assert part(server.requests[1])[1] == tarball.read_bytes()
    checkpoints.delete(31, "7")
    assert [one.path for one in server.requests[1:]] == [
        "/server/panda/put_checkpoint",
        "/server/panda/delete_checkpoint",
    ]
    assert parse_qs(server.requests[2].body.decode()) == {"task_id": ["31"], "sub_id": ["7"]}


@pytest.mark.parametrize("legacy", [False, True])
def test_a_checkpoint_that_the_server_finds_too_large_is_refused(server, wire, tarball, legacy):
    message = "Exceeded size limit 600000000>524288000"
    answer = (200, json.dumps({"status": False, "message": message}).encode()) if legacy else no(message)
    server.answers = [(404, b""), answer] if legacy else [answer]
    with pytest.raises(ServerRefused, match="Exceeded size limit"):
        CheckpointClient(wire).put(31, "7", tarball)


def test_a_checkpoint_comes_from_the_cache_or_there_is_none(server, wire, tmp_path):
    target = tmp_path / "got"
    server.answers = [(200, b"bytes"), (404, b"<html>none</html>")]
    checkpoints = CheckpointClient(wire)
    assert checkpoints.get(f"{server.url}/", 31, "7", target, 10)
    assert target.read_bytes() == b"bytes"
    assert server.requests[0].path == "/cache/hpo_cp_31_7"
    assert not checkpoints.get(server.url, 31, "8", tmp_path / "none", 10)
    assert not (tmp_path / "none").exists()


def test_a_checkpoint_beyond_the_limit_is_not_kept(server, wire, tmp_path):
    server.answers = [(200, b"x" * 11)]
    with pytest.raises(ServerRefused, match="larger than 10 bytes"):
        CheckpointClient(wire).get(server.url, 31, "7", tmp_path / "got", 10)
    assert not (tmp_path / "got").exists()


def test_a_checkpoint_is_removed_by_texts_and_that_there_is_none_is_no_error(server, wire):
    server.answers = [no("file not found")]
    CheckpointClient(wire).delete(31, "7")
    assert sent_json(server) == {"task_id": "31", "sub_id": "7"}


def test_the_credential_stays_with_the_server_when_a_checkpoint_is_fetched(server, transport, login, tmp_path):
    server.answers = [(404, b"")]
    wire = Wire(transport, server.url, "test", login[0])
    CheckpointClient(wire).get(server.url, 31, "7", tmp_path / "got", 10)
    assert not {"authorization", "origin", "x-idds-auth-token"} & set(server.requests[0].headers)
