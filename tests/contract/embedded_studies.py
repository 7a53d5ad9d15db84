"""Studies on an embedded server, and pilots that evaluate their points: one call at a time, by hand."""

import shlex

SPACE = {"x": {"method": "uniform", "dimension": {"low": 0.0, "high": 1.0}}}


def study(points=4, **more):
    """A study as it is posted; random points with a seed unless told otherwise."""
    return {
        "study": "one",
        "max_points": points,
        "search_space": SPACE,
        "steering": {"builtin": "random", "seed": 1},
        "evaluation": {"exec": "true"},
        **more,
    }


def grid(count, **more):
    """A study whose points are the numbers from 1 on."""
    space = {"x": {"method": "uniformint", "dimension": {"low": 1, "high": count}}}
    return study(count, search_space=space, steering={"builtin": "grid"}, **more)


def post(client, posted, **more):
    return client.send("POST", "/local/studies", json={"study": posted, **more})


class Task:
    """A study that was submitted."""

    def __init__(self, client, posted, **more):
        self.client = client
        answer = post(client, posted, **more)
        assert answer.status_code == 200, answer.text
        self.id = answer.json()["task"]

    @property
    def status(self):
        return self.client.send("GET", f"/local/studies/{self.id}").json()

    def point(self, point):
        return next(one for one in self.status["points"] if one["id"] == str(point))

    @property
    def known(self):
        """The points as iDDS has them, by id."""
        found = self.client.send("GET", f"/idds/hpo/{self.id}/null/null/null/null").json()
        return {one["id"]: one for one in found}

    def put(self, point, loss):
        answer = self.client.send("PUT", f"/idds/hpo/{self.id}/null/{point}/{loss}")
        assert (answer.status_code, answer.json()["status"]) == (200, 0), answer.text

    def report(self, point, **steps):
        """Intermediate losses; whether the point is to be given up."""
        told = [{"step": int(step[1:]), "loss": loss} for step, loss in steps.items()]
        path = f"/local/studies/{self.id}/points/{point}/progress"
        return self.client.send("POST", path, json={"steps": told}).json()["prune"]

    def job(self):
        """A job of it, running."""
        (definition,) = self.client.acquire()
        job = Job(self, definition)
        job.say("running")
        return job


class Job:
    """A job of a study, as the pilot that has it."""

    def __init__(self, task, definition):
        self.task, self.client, self.definition = task, task.client, definition
        self.id = definition["PandaID"]

    @property
    def arguments(self):
        words = shlex.split(self.definition["jobPars"])
        return dict(zip(words[::2], words[1::2], strict=True))

    def say(self, state, **fields):
        self.client.update(self.id, state, **fields)

    def end(self, state="finished", **fields):
        """Say the last word, and wait for the verdict."""
        report = {"job_output_report": self.client.report(self.id), "trans_exit_code": 0} if state == "finished" else {}
        self.say(state, **{**report, **fields})
        return self.client.ended(self.id)

    def events(self, count=1, **more):
        fields = {"job_id": self.id, "jobset_id": 0, "task_id": self.task.id, "n_ranges": count, **more}
        answer = self.client.call("event/acquire_event_ranges", **fields)
        assert answer["success"], answer
        return [one["eventRangeID"] for one in answer["data"]]

    def take(self, count=1, **more):
        """The ids of so many points."""
        return [event.split("-")[3] for event in self.events(count, **more)]

    def close(self, event, loss=None, status="finished"):
        """Tell a loss, and that the event is done."""
        if loss is not None:
            self.task.put(event.split("-")[3], loss)
        fields = {"event_range_id": event, "event_range_status": status}
        assert self.client.call("event/update_single_event_range", **fields)["success"]

    def evaluate(self, count, loss):
        """Take points one after the other; ``loss`` is a function of x."""
        for _ in range(count):
            (event,) = self.events()
            parameters = self.task.known[event.split("-")[3]]["parameters"]
            self.close(event, loss(parameters["x"]))
