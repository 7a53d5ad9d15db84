"""Studies for tests: small ones, submitted to an embedded server, and what became of their points."""

import json

from tests.lab import until

SPACE = {"x": {"method": "uniform", "dimension": {"low": 0.0, "high": 1.0}}}
QUICK = "PILOT_LINGER=1 PILOT_STEERING_WAIT=1"
PATIENCE = {"PILOT_LINGER": "1", "PILOT_STEERING_WAIT": "1", "PILOT_LINGER_POLL": "0.5", "PILOT_IDLE": "1"}
"""Settings of pilots that leave soon when there are no more points."""

ECHO = (
    "import json; x = json.load(open('input.json'))['x'];"
    " json.dump({'status': 0, 'loss': x * x}, open('output.json', 'w'))"
)
"""An evaluation: the loss is the square of x."""


def python(code: str) -> str:
    """A command line that runs this code."""
    return f'python3 -c "{code}"'


def study(name="parabola", points=4, command=None, **more):
    """A study as it is posted: random points, so that no optimiser's mood matters."""
    evaluation = {"exec": command or python(ECHO), **more.pop("evaluation", {})}
    return {
        "study": name,
        "max_points": points,
        "search_space": SPACE,
        "steering": {"builtin": "random", "seed": 1},
        "evaluation": evaluation,
        **more,
    }


def submit(serve, posted, archive="", inputs=()):
    """Submit it; its task."""
    body = {"study": posted, "archive": archive, "inputs": list(inputs), "queue": "LOCAL"}
    return serve.call("POST", "/local/studies", json=body)["task"]


def look(serve, task):
    """What the server tells of it."""
    return serve.call("GET", f"/local/studies/{task}")


def points(serve, task):
    """Its points, by id."""
    return {one["id"]: one for one in look(serve, task)["points"]}


def ended(serve, task, seconds=60):
    """The study when it has ended."""
    until(lambda: look(serve, task)["state"] != "running", seconds, f"the end of study {task}")
    return look(serve, task)


def losses(serve, task):
    """All losses that were told, by point."""
    return {point: [one["loss"] for one in told["losses"]] for point, told in points(serve, task).items()}


def jobs(serve, task):
    """The statuses of its jobs, once each has its verdict."""
    return [serve.ended(job) for job in look(serve, task)["jobs"]]


def hpo(status):
    """What the final of a job says of its points."""
    return json.loads(status["meta_data"])["user_job_metadata"]["hpo"] if "meta_data" in status else None
