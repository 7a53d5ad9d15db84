"""Each answer that a live panda-server 1.0.4 was recorded to give, fed to our client over HTTP: what it decides.

The table below says what must be decided; ``pytest -s`` prints what was, answer by answer.
"""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from pilot.net.transport import Limits, Transport
from pilot.panda.client import PandaClient, Question, first_words
from pilot.panda.events import EventClient, RangeUpdate
from pilot.panda.grants import GrantClient
from pilot.panda.wire import Wire, succeeded
from pilot.values.errors import BadJob, CredentialError, ServerGarbled, ServerRefused, ServerUnavailable
from tests.contract.canned import Canned

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "data" / "panda-live-exchanges.jsonl").read_text().splitlines()
]
UPDATE = {"job_id": 1, "job_status": "running"}
QUESTION = Question("Q", "managed", "node", "Q")
RANGE = RangeUpdate("1-2-3-4-5", "finished")

CALLS = {
    "pilot/acquire_jobs": lambda wire: PandaClient(wire).acquire_job(QUESTION),
    "pilot/update_job": lambda wire: PandaClient(wire).update_job(UPDATE),
    "pilot/get_job_status": lambda wire: PandaClient(wire).job_status(1),
    "pilot/update_worker_status": lambda wire: PandaClient(wire).update_worker_status("h", 1, "started", "n"),
    "pilot/update_worker_node": lambda wire: PandaClient(wire).update_worker_node({}),
    "pilot/update_worker_node_gpu": lambda wire: PandaClient(wire).update_worker_node_gpu({}),
    "metaconfig/get_resource_types": lambda wire: PandaClient(wire).resource_types(),
    "event/acquire_event_ranges": lambda wire: EventClient(wire).acquire(1, 2, 3, 4),
    "event/update_single_event_range": lambda wire: EventClient(wire).update_one(RANGE),
    "event/get_event_range_statuses": lambda wire: EventClient(wire).statuses(1, 2),
    "creds/get_access_token": lambda wire: GrantClient(wire).access_token("c", "k"),
    "creds/get_key_pair": lambda wire: GrantClient(wire).key_pair("a", "b"),
    "creds/get_user_secrets": lambda wire: GrantClient(wire).user_secrets(),
    "system/is_alive": lambda wire: succeeded("is_alive", wire.get("/api/v1/system/is_alive", {}, Limits())),
}
NOT_OURS = {  # calls that a pilot does not make, with the reason
    "harvester/": "Harvester's own",
    "metaconfig/get_site_specs": "not asked by pilots",
    "job/": "users' and operators' calls",
    "pilot/update_jobs_bulk": "Harvester's own",
    "event/get_available_event_range_count": "Harvester's own",
    "event/update_event_ranges": "decided by a second call: see the tests below the table",
    "creds/get_token_key": "Harvester's own",
    "pilot/no_such_method": "no such call",
    "nomodule/": "no such call",
    "/server/panda/": "the legacy API, which this server does not have",
    "/api/latest/": "a version that this server does not have",
    "/api/v9/": "a version that this server does not have",
}

# call, HTTP status, what the answer holds -> what is decided. The first line that fits counts.
DECISIONS = [
    ("", 403, r"Token|oken", "refresh"),
    ("", 403, r"forbidden", "give up"),
    ("", 200, r"SSL secure connection|production or pilot role|no production/pilot role", "refresh"),
    ("", 200, r"Type error|Argument error|expecting POST|Invalid job status|failed to parse", "give up"),
    ("", 200, r"Invalid worker state|Failed to update worker status|not in authorized|not authorized", "give up"),
    ("", 200, r"[Dd]atabase error", "retry"),
    ("pilot/get_job_status", 200, r'"status": "unknown"', "retry"),
    ("", 500, r"received invalid JSON|argument after \*\*|isinstance\(\)", "give up"),
    ("pilot/acquire_jobs", 200, r"No jobs in PanDA", "ask again"),
    ("pilot/update_job", 200, r'"command": "[^"]*tobekilled', "kill"),
    ("pilot/update_job", 200, r'"command": "[^"]*softkill', "drain"),
    ("", 200, r"^\{'|[^}]$", "retry"),  # a Python repr, or an answer that the recording has cut: no JSON
    ("pilot/acquire_jobs", 200, r'"jobs": \[', "take"),
    ("", 200, r'"success": (true|null)', "accept"),
]


@pytest.fixture(scope="module")
def canned():
    server = Canned()
    yield server
    server.close()


def call_of(exchange):
    return exchange["path"].split("?")[0].removeprefix("/api/v1/")


def reason_to_skip(exchange):
    if exchange["status"] is None:
        return "no answer was recorded: the client of the recording failed"
    call = call_of(exchange)
    return next((why for prefix, why in NOT_OURS.items() if call.startswith(prefix)), None)


def expected(exchange):
    for call, status, text, decision in DECISIONS:
        if call_of(exchange).startswith(call) and exchange["status"] == status and re.search(text, exchange["reply"]):
            return decision
    raise AssertionError(f"no line of the table fits {exchange['name']}: {exchange['reply'][:200]}")


def decide(wire, call):
    try:
        result = CALLS[call](wire)
    except (ServerUnavailable, ServerGarbled):
        return "retry"
    except ServerRefused:
        return "give up"
    except CredentialError:
        return "refresh"
    except BadJob:
        return "refuse the job"
    if call == "pilot/acquire_jobs":
        return "ask again" if result is None else "take"
    if call == "pilot/update_job":
        words = first_words(result.command)
        return "kill" if "tobekilled" in words else "drain" if "softkill" in words else "accept"
    return "accept"


def test_every_recorded_answer_leads_to_its_decision(canned):
    wrong, counts = [], Counter()
    for exchange in RECORDED:
        if reason_to_skip(exchange):
            continue
        call = call_of(exchange)
        canned.answers = [(exchange["status"], exchange["reply"].encode())]
        transport = Transport(canned.url)
        decision = decide(Wire(transport, canned.url, "test"), call)
        transport.close()
        counts[call, decision] += 1
        print(f"{call:<36} {exchange['status']} {decision:<15} {' '.join(exchange['reply'].split())[:90]}")
        if decision != expected(exchange):
            wrong.append((exchange["name"], decision, expected(exchange)))
    for (call, decision), count in sorted(counts.items()):
        print(f"{count:>4}  {call:<36} {decision}")
    assert wrong == []
    assert sum(counts.values()) + sum(bool(reason_to_skip(one)) for one in RECORDED) == len(RECORDED)


def test_the_bulk_update_is_judged_by_what_is_stored_and_not_by_its_500():
    server = Canned()
    server.answers = [
        (500, b"unhashable type: 'list'"),
        (200, b'{"success": true, "message": "", "data": {"2": {"1-2-3-4-5": {"status": "finished"}}}}'),
    ]
    transport = Transport(server.url)
    try:
        updates = [RangeUpdate("1-2-3-4-5", "finished"), RangeUpdate("1-2-3-6-5", "finished")]
        left = EventClient(Wire(transport, server.url, "test")).update(2, 1, updates)
    finally:
        transport.close()
        server.close()
    assert left == updates[1:]
