import dataclasses
import re
import runpy
from pathlib import Path

import pytest

from pilot.agent.cli import COMMANDS
from pilot.panda.client import Question
from pilot.panda.fields import CALLS
from pilot.values.errors import UsageError
from pilot.values.settings import resolve


def test_flags_win_over_the_environment_over_the_file_over_the_defaults():
    file = {"queue": "F", "idle": 1, "grace": 5}
    environ = {"PILOT_QUEUE": "E", "PILOT_IDLE": "2"}
    resolved = resolve(file, environ, {"queue": "flag", "idle": None})
    assert (resolved.settings.queue, resolved.settings.idle, resolved.settings.grace) == ("flag", 2.0, 5.0)
    assert [resolved.origins[name] for name in ("queue", "idle", "grace", "server")] == [
        "flag",
        "PILOT_IDLE",
        "file",
        "default",
    ]


def test_harvesters_own_names_are_understood():
    environ = {"HARVESTER_ID": "h", "HARVESTER_WORKER_ID": "7", "K8S_JOB_ID": "grid-7", "pandaQueueName": "Q"}
    settings = resolve({}, environ, {}).settings
    assert (settings.harvester_id, settings.worker_id, settings.batch_id, settings.queue) == ("h", "7", "grid-7", "Q")
    assert settings.in_pod


@pytest.mark.parametrize(
    ("file", "environ", "flags", "said"),
    [
        ({"sever": "x"}, {}, {}, "did you mean server"),
        ({}, {"PILOT_IDLE": "soon"}, {}, "idle (from PILOT_IDLE)"),
        ({}, {}, {"idle": -1}, "idle (from flag)"),
        ({"max_jobs": "x"}, {}, {}, "max_jobs (from file)"),
        ({}, {}, {"server": "ftp://x"}, "server:"),
        ({}, {}, {"work": "a\nb"}, "work (from flag)"),
        ({"log_format": "xml"}, {}, {}, "log_format"),
        ({"worker_id": "abc"}, {}, {}, "worker_id"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_line_with_its_name_and_origin(file, environ, flags, said):
    with pytest.raises(UsageError, match=r".") as caught:
        resolve(file, environ, flags)
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["settings.md", "calls.md", "journal.md", "payload.md"])
def test_the_generated_pages_are_those_of_the_code(name):
    docs = Path(__file__).parents[2] / "docs"
    generated = runpy.run_path(str(docs / "generate.py"))["PAGES"][name]()
    assert (docs / name).read_text() == generated, "run docs/generate.py"


def test_the_question_for_a_job_has_the_documented_fields_and_no_other():
    known = {one.name for one in dataclasses.fields(Question)}
    question = Question(**dict.fromkeys(known, "1"))
    assert set(question.body()) == set(CALLS["POST pilot/acquire_jobs"])


def test_the_readme_names_every_command_and_no_other():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    table = readme.split("## Commands")[1].split("`pilot run` takes")[0]
    assert set(re.findall(r"^\| `pilot (\w+)", table, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("pattern", ["/etc/passwd", "../x", "a//b", "", "**.ckpt", "a/../b", "."])
def test_a_pattern_of_checkpoints_that_leaves_the_work_directory_or_is_none_is_refused(pattern):
    with pytest.raises(UsageError, match="checkpoints: "):
        resolve({"checkpoints": [pattern]}, {}, {})
