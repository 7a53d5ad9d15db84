import io
import json
import logging

import pytest

from pilot.panda.fields import FIELDS, clean
from pilot.values.deadline import Budget, Clock, Deadline
from pilot.values.errors import SiteError
from pilot.values.events import JsonFormatter, TextFormatter
from pilot.values.names import Lfn, Scope
from pilot.values.redaction import Redactor
from pilot.values.site import Protocol, deterministic_path, file_url, parse_queue, parse_storages
from pilot.values.stop import Reason, Stop


def test_a_grace_period_is_split_in_front_and_leaves_its_margin():
    for grace in (2, 5, 30, 120):
        budget = Budget.of(grace)
        shares = (budget.payload_s, budget.outputs_s, budget.save_s, budget.report_s, budget.leave_s)
        assert shares[0] > 0
        assert list(shares) == sorted(set(shares))
        assert budget.leave_s == pytest.approx(grace - min(5, 0.2 * grace))


def test_the_first_reason_of_a_stop_stays_and_reaches_its_children():
    with Stop() as pilot, Stop(pilot) as job:
        pilot.request(Reason.SIGTERM)
        pilot.request(Reason.TOBEKILLED)
        assert (pilot.reason, job.reason) == (Reason.SIGTERM, Reason.SIGTERM)
        with Stop(pilot) as late:
            assert late.reason is Reason.SIGTERM


def test_a_jobs_stop_does_not_stop_the_pilot():
    with Stop() as pilot, Stop(pilot) as job:
        job.request(Reason.TOBEKILLED)
        assert pilot.reason is None
        assert job.error().code == 1144


def test_a_deadline_counts_on_its_own_clock():
    class Jumping(Clock):
        now_s = 100.0

        def monotonic(self):
            return self.now_s

    clock = Jumping()
    deadline = Deadline.after(10, clock)
    assert deadline.left() == 10
    clock.now_s = 111
    assert deadline.expired()
    assert Deadline.never(clock).timeout() is None


def test_the_deterministic_path_is_ruciosown():
    # md5("user.alice:words.txt") begins with b6f7
    assert deterministic_path(Scope("user.alice"), Lfn("words.txt")) == "user/alice/b6/f7/words.txt"


@pytest.mark.parametrize(
    ("endpoint", "path", "prefix"),
    [
        ("root://h:1094/", "/data/rucio/", "root://h:1094//data/rucio/"),
        ("root://h:1094", "data", "root://h:1094//data/"),
        ("https://h:443/", "/store/", "https://h:443/store/"),
        ("davs://h", "/", "davs://h/"),
        ("file://", "/pool/", "file:///pool/"),
    ],
)
def test_a_protocols_prefix_ends_in_one_slash(endpoint, path, prefix):
    protocol = Protocol(endpoint, path)
    assert protocol.prefix == prefix
    assert file_url(protocol, Scope("s"), Lfn("f")).startswith(prefix)


def test_queue_data_may_be_flat_nested_or_written_as_text():
    flat = {"nickname": "Q", "panda_resource": "R", "timefloor": "2", "astorages": "{'pw': ['RSE']}", "maxwdir": "NULL"}
    for raw in (flat, {"Q": flat}):
        queue = parse_queue("Q", raw)
        assert (queue.resource, queue.timefloor_s, queue.maxwdir_mib, queue.online) == ("R", 120, 0, True)
        assert queue.astorages == {"pw": ("RSE",)}
    assert not parse_queue("Q", {"status": "offline"}).online
    assert not parse_queue("Q", {"state": "CLOSED"}).online


@pytest.mark.parametrize("raw", [None, [], {"error": "no such queue"}, {"timefloor": "soon"}])
def test_wrong_queue_data_are_the_sites_fault(raw):
    with pytest.raises(SiteError):
        parse_queue("Q", raw)


def test_wrong_storage_data_name_the_storage():
    with pytest.raises(SiteError, match="RSE_A"):
        parse_storages({"RSE_A": {"arprotocols": {"pr": [{"endpoint": "x"}]}}})


def render(formatter, redactor, text, **keys):
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(redactor))
    record = logging.LogRecord("pilot.test", logging.INFO, "f", 1, text, (), None)
    record.keys = keys
    handler.emit(record)
    return stream.getvalue()


def test_an_event_is_one_line_whatever_its_values_hold():
    assert render(TextFormatter, Redactor(), "x\ny", a="1\n2\x1b[0m").count("\n") == 1
    assert json.loads(render(JsonFormatter, Redactor(), "x", a="1\n2", n=5))["n"] == 5


@pytest.mark.parametrize("formatter", [TextFormatter, JsonFormatter])
def test_secrets_do_not_reach_the_log(formatter):
    redactor = Redactor()
    redactor.learn("s3cr3t-token-value\n")
    line = render(
        formatter, redactor, "GET x?authz=Bearer%20abcdefghij s3cr3t-token-value", header="Bearer eyJhbGciOi.x.y"
    )
    for secret in ("s3cr3t", "abcdefghij", "eyJhbGciOi"):
        assert secret not in line


def test_an_update_leaves_in_the_servers_types_and_lengths():
    update = clean(
        {
            "job_id": 1,
            "cpu_consumption_time": 12.7,
            "pilot_error_diag": "x\x00" * 600,
            "meta_data": None,
            "node": "n" * 200,
        },
        Redactor(),
    )
    assert update["cpu_consumption_time"] == 12
    assert len(update["pilot_error_diag"]) == 500
    assert "\x00" not in update["pilot_error_diag"]
    assert len(update["node"]) == 128
    assert "meta_data" not in update
    with pytest.raises(KeyError):
        clean({"jobId": 1}, Redactor())
    assert FIELDS["job_output_report"].kind is str
