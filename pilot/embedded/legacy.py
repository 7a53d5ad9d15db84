"""The calls about hyper-parameter points before v1, known to servers before 2026-05 (hpo-contract.md 3.2, B1).

They take forms, and answer in shapes of their own what their successors do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pilot.embedded import documents
from pilot.embedded.handlers import Handler, Visit
from pilot.embedded.wire import Answer, Envelope

_PREFIX = "/server/panda/"
_PERMISSION, _FAILED = 60, 30
_STRANGER = "SSL secure connection is required"
Form = Mapping[str, Any]


class Legacy:
    """Answers by the handlers of v1."""

    def __init__(self, *handlers: Mapping[str, Handler]) -> None:
        self._handlers = {name: handler for group in handlers for name, handler in group.items()}
        self._calls: dict[str, Callable[[Form, Visit], object]] = {
            "getEventRanges": self._acquire,
            "updateEventRange": self._update_one,
            "updateEventRanges": self._update,
            "get_events_status": self._statuses,
            "put_checkpoint": self._put_checkpoint,
            "delete_checkpoint": self._delete_checkpoint,
            "relay_idds_command": self._relay,
        }

    def knows(self, path: str) -> bool:
        """Whether it is the path of such a call."""
        return path.removeprefix(_PREFIX) in self._calls and path.startswith(_PREFIX)

    def answer(self, path: str, sent: object, visit: Visit) -> Answer:
        """The answer to a form."""
        if not visit.caller.secure:
            return _as_json(
                {"StatusCode": _PERMISSION, "errorDialog": _STRANGER, "status": False, "message": _STRANGER}
            )
        try:
            told = self._calls[path.removeprefix(_PREFIX)](sent if isinstance(sent, dict) else {}, visit)
        except (KeyError, ValueError, TypeError) as error:
            told = {"StatusCode": _FAILED, "errorDialog": f"{type(error).__name__}: {error}"}
        return _as_json(told)

    def _run(self, call: str, visit: Visit, **arguments: Any) -> Envelope:
        return self._handlers[call](arguments, visit)

    def _acquire(self, form: Form, visit: Visit) -> object:
        given = self._run(
            "event/acquire_event_ranges",
            visit,
            job_id=int(form["pandaID"]),
            jobset_id=int(form["jobsetID"]),
            task_id=int(form["taskID"]) if "taskID" in form else None,
            n_ranges=int(form.get("nRanges", 10)),
            segment_id=int(form["segment_id"]) if "segment_id" in form else None,
        )
        return {"StatusCode": 0, "eventRanges": given["data"]}

    def _update_one(self, form: Form, visit: Visit) -> object:
        told = [{"eventRangeID": form["eventRangeID"], "eventStatus": form["eventStatus"]}]
        return self._updated(told, 1, visit)

    def _update(self, form: Form, visit: Visit) -> object:
        return self._updated(documents.loads(form["eventRanges"]), int(form.get("version", 0)), visit)

    def _updated(self, told: object, version: int, visit: Visit) -> object:
        done = self._run("event/update_event_ranges", visit, event_ranges=json.dumps(told), version=version)
        if not done["success"]:
            return {"StatusCode": _FAILED, "errorDialog": done["message"]}
        return {"StatusCode": 0, "Returns": done["data"]["Returns"], "Command": done["data"]["Commands"]}

    def _statuses(self, form: Form, visit: Visit) -> object:
        told = self._run("event/get_event_range_statuses", visit, job_task_ids=form["ids"])
        return told["data"] or {}

    def _put_checkpoint(self, form: Form, visit: Visit) -> object:
        return _status(self._run("file_server/upload_hpo_checkpoint", visit, file=form["file"]))

    def _delete_checkpoint(self, form: Form, visit: Visit) -> object:
        point = {"task_id": form["task_id"], "sub_id": form["sub_id"]}
        return _status(self._run("file_server/delete_hpo_checkpoint", visit, **point))

    def _relay(self, form: Form, visit: Visit) -> object:
        told = self._run(
            "idds/relay_idds_command",
            visit,
            command_name=form["command_name"],
            args=form.get("args"),
            kwargs=form.get("kwargs"),
            json_outputs=form.get("json_outputs") == "True",
        )
        return [told["success"], told["data"] if told["success"] else told["message"]]


def _status(told: Envelope) -> object:
    return {"status": told["success"], "message": told["message"]}


def _as_json(told: object) -> Answer:
    return Answer(200, json.dumps(told))
