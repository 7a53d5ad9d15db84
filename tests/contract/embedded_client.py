"""An embedded server with a client of the plainest kind, for the tests beside it."""

import json
import time
from contextlib import contextmanager

import requests

from pilot.embedded.server import EmbeddedServer
from tests.local import LocalToken

PATIENCE_S = 10


class Client:
    """Calls of one server; each method returns the decoded answer."""

    def __init__(self, url, token=""):
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.auth = LocalToken(token)
        self.session.headers["Accept"] = "application/json"

    def send(self, method, path, **more):
        return self.session.request(method, self.url + path, timeout=PATIENCE_S, **more)

    def call(self, name, **fields):
        answer = self.send("POST", f"/api/v1/{name}", json=fields)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def submit(self, **definition):
        answer = self.send("POST", "/local/jobs", json={"definition": {"command": "true", **definition}})
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def acquire(self, **fields):
        answer = self.call("pilot/acquire_jobs", **{"site_name": "LOCAL", **fields})
        return answer["data"]["jobs"] if answer["success"] else []

    def running(self, **definition):
        """The id of a job that was submitted, acquired and reported as running."""
        job = self.submit(**definition)
        assert [one["PandaID"] for one in self.acquire()] == [job]
        self.update(job, "starting")
        self.update(job, "running")
        return job

    def update(self, job, status, **fields):
        """The ``data`` of the answer to an update."""
        return self.call("pilot/update_job", job_id=job, job_status=status, **fields)["data"]

    def finish(self, job, **fields):
        return self.update(job, "finished", **{"job_output_report": self.report(job), "trans_exit_code": 0, **fields})

    def report(self, job, *outputs):
        names = [*outputs, f"job.{job}.log.tgz"]
        return json.dumps({name: entry(name) for name in names})

    def state(self, job):
        answer = self.send("GET", "/api/v1/pilot/get_job_status", params={"job_ids": job})
        return answer.json()["data"][0]["status"]

    def status(self, job):
        return self.send("GET", f"/local/jobs/{job}").json()

    def ended(self, job):
        """The state of a job once the Adder is through with it."""
        until(lambda: self.state(job) in ("finished", "failed", "cancelled"))
        return self.state(job)

    def faults(self, *rules):
        answer = self.send("POST", "/local/faults", json=list(rules))
        assert answer.status_code == 200, answer.text

    def requests(self, job=None):
        answer = self.send("GET", "/local/requests", params={} if job is None else {"job": job})
        return answer.json()["requests"]


def entry(name):
    return {"guid": "c2a9f6a0-1d7e", "fsize": 3, "adler32": "00a1b2c3", "surl": f"http://store/{name}"}


def until(condition, what="a condition", patience_s=PATIENCE_S):
    """Wait until a condition holds; it fails the test if that takes too long."""
    end = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.01)


@contextmanager
def running(data, **options):
    """A client of a server that lives as long as the with block."""
    with EmbeddedServer(data, **{"adder_delay_s": 0.05, **options}) as server:
        client = Client(server.url, server.local_token)
        try:
            yield client
        finally:
            client.session.close()
