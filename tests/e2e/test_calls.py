"""What the pilot sends is what docs/calls.md says."""

import json
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from pilot.panda.fields import CALLS
from tests.lab import until

DOCS = Path(__file__).parents[2] / "docs" / "calls.md"


def sent(request):
    """The names of all fields of a request."""
    query = dict(parse_qsl(urlsplit(request["path"]).query))
    return {*query, *(json.loads(request["body"]) if request["body"].startswith("{") else ())}


def test_every_call_and_every_field_of_a_job_stands_in_the_table(serve, run):
    serve.submit(command="sleep 1; echo x > out.txt", outputs=["out.txt"])
    pilot = run("--max-jobs", 1)
    until(lambda: serve.calls("update_worker_node"), what="the report of the node")
    assert pilot.wait() == 0
    calls = [one for one in serve.requests() if one["path"].startswith("/api/v1/")]
    names = {"{} {}".format(one["method"], urlsplit(one["path"]).path.removeprefix("/api/v1/")) for one in calls}
    assert {"POST pilot/acquire_jobs", "POST pilot/update_job", "POST pilot/update_worker_node"} <= names <= set(CALLS)
    for one in calls:
        name = "{} {}".format(one["method"], urlsplit(one["path"]).path.removeprefix("/api/v1/"))
        assert sent(one) <= set(CALLS[name]), name


def test_the_table_is_in_the_documentation():
    text = DOCS.read_text()
    for name, fields in CALLS.items():
        assert f"## {name}\n" in text
        assert all(f"| `{field}` |" in text for field in fields)
