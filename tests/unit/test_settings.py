import pytest

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
