"""The embedded server answers as the live one did, exchange by exchange."""

import ast
import json
import re
from pathlib import Path

import pytest

from tests.contract.embedded_client import running, until

RECORDED = Path(__file__).parents[1] / "data" / "panda-pilot-calls.jsonl"
EXCHANGES = [json.loads(line) for line in RECORDED.read_text(encoding="utf-8").splitlines()]
UNKNOWN_ID = 99999999


def why_not(exchange):
    """The reason why an exchange is not replayed, None if it is."""
    name, reply = exchange["name"], exchange["reply"]
    refusals = ("Token authentication", "SSL secure", "pilot role")
    reasons = {
        "about credentials, which are not asked for on loopback": any(words in reply for words in refusals),
        "there is no database server that could be down": name.startswith("DATABASE DOWN"),
        "the recording client could not send it": exchange["status"] is None,
        "how long the Adder takes is not promised": name == "poll" and '"holding"' in reply,
        "debug mode is not served": name == "update_job after set_debug_mode",
        "the recording holds only the beginning": "JSON body" in exchange["request"] and shortened(exchange["body"]),
    }
    return next((reason for reason, applies in reasons.items() if applies), None)


def shortened(body):
    try:
        json.loads(body)
    except ValueError:
        return True
    return False


class Replay:
    """A recorded session played again; recorded job ids are translated to those of this server."""

    def __init__(self, client):
        self.client = client
        self.ids = {}
        self.jobs = {job: one for exchange in EXCHANGES for job, one in handed_out(exchange).items()}

    def play(self, exchange):
        self.prepare(exchange)
        if exchange["path"].startswith("/api/v1/pilot/get_job_status"):
            until(lambda: self.same(exchange, self.send(exchange)), what=exchange["name"])
        else:
            answer = self.send(exchange)
            assert self.same(exchange, answer), (exchange["name"], answer.text)

    def prepare(self, exchange):
        """Submit the jobs that the exchange is about, if they are not there yet."""
        for recorded in [*handed_out(exchange), *mentioned(exchange)]:
            self.submit(recorded)

    def submit(self, recorded):
        if recorded not in self.ids and recorded != UNKNOWN_ID:
            definition, queue = self.jobs.get(recorded, ({}, "ELSEWHERE"))
            body = {"definition": {"panda": definition, "queue": queue}}
            answer = self.client.send("POST", "/local/jobs", json=body)
            assert answer.status_code == 200, answer.text
            self.ids[recorded] = answer.json()["id"]

    def send(self, exchange):
        headers = re.search(r"headers (\{.*?\})", exchange["request"])
        headers = {"Accept": None, **(ast.literal_eval(headers[1]) if headers else {})}
        path = re.sub(r"(?<=job_ids=)\d+", lambda found: str(self.translated(int(found[0]))), exchange["path"])
        return self.client.send(exchange["method"], path, headers=headers, **self.body(exchange))

    def body(self, exchange):
        body = exchange["body"]
        if "JSON body" in exchange["request"]:
            return {"json": self.renumbered(json.loads(body))}
        if "raw body" in exchange["request"]:
            raw = ast.literal_eval(body)
            return {"data": re.sub(rb'(?<="job_id":)\d+', lambda found: b"%d" % self.translated(int(found[0])), raw)}
        return {"data": ast.literal_eval(body)} if "form body" in exchange["request"] else {}

    def renumbered(self, value):
        if not isinstance(value, dict):
            return value
        numbers = {key: self.translated(value[key]) for key in ("job_id",) if type(value.get(key)) is int}
        several = {key: [self.translated(one) for one in value[key]] for key in ("job_ids",) if key in value}
        return {**value, **numbers, **several}

    def translated(self, recorded):
        return self.ids.get(recorded, recorded)

    def same(self, exchange, answer):
        expected = exchange["reply"]
        if answer.status_code != exchange["status"] or answer.headers["Content-Type"] != "text/plain":
            return False
        if handed_out(exchange):
            return self.same_jobs(exchange, answer.json())
        back = {ours: recorded for recorded, ours in self.ids.items()}
        known = re.compile(r"(?<=['\"]job_id['\"]: )\d+")
        return known.sub(lambda found: str(back.get(int(found[0]), found[0])), answer.text) == expected

    def same_jobs(self, exchange, answer):
        wanted = [{**one, "PandaID": self.ids[recorded]} for recorded, one in given(exchange)]
        got = answer["data"]["jobs"]
        if truncated(exchange):
            return [one["PandaID"] for one in got] == [one["PandaID"] for one in wanted]
        return got == [{**one, "nSent": seen["nSent"]} for one, seen in zip(wanted, got, strict=True)]


def handed_out(exchange):
    """Definition and queue of each job that an exchange gave out, by its recorded id."""
    if "acquire_jobs" not in exchange["path"] or '"jobs": [' not in exchange["reply"]:
        return {}
    queue = json.loads(exchange["body"])["site_name"]
    return {recorded: (definition, queue) for recorded, definition in given(exchange)}


def truncated(exchange):
    return exchange["reply"].endswith("...")


def given(exchange):
    """The jobs of an acquire answer with their recorded ids; a shortened answer has lost all but the first name."""
    if not truncated(exchange):
        return [(one["PandaID"], one) for one in json.loads(exchange["reply"])["data"]["jobs"]]
    first = int(re.search(r'"PandaID": (\d+)', exchange["reply"])[1])
    tag, number = re.search(r'"jobName": "real\.(\w+)\.(\d+)"', exchange["reply"]).groups()
    count = min(json.loads(exchange["body"]).get("n_jobs", 1), 10)
    return [(first + step, outputs(tag, int(number) + step)) for step in range(count)]


def outputs(tag, number):
    log = f"{tag}.log.{number}.tgz"
    return {"attemptNr": 0, "outFiles": f"{tag}.out.{number}.txt,{log}", "logFile": log}


def mentioned(exchange):
    texts = re.findall(r"job_ids=(\d+)", exchange["path"])
    texts += re.findall(r'"job_ids?": ?\[?(\d+)', exchange["body"] or "")
    return [int(text) for text in texts]


def test_the_recorded_session_gets_the_recorded_answers(tmp_path):
    played, skipped = 0, {}
    with running(tmp_path, adder_delay_s=1.0) as client:
        replay = Replay(client)
        for exchange in EXCHANGES:
            reason = why_not(exchange)
            if reason:
                skipped.setdefault(reason, []).append(exchange["name"])
                continue
            replay.play(exchange)
            played += 1
    assert played > 100, (played, skipped)


@pytest.mark.parametrize("accept", ["*/*", "application/json, */*", "Application/JSON"])
def test_only_the_exact_accept_header_brings_json(tmp_path, accept):
    with running(tmp_path) as client:
        answer = client.send("GET", "/api/v1/system/is_alive", headers={"Accept": accept})
    assert answer.text == "{'success': True, 'message': '', 'data': None}"
