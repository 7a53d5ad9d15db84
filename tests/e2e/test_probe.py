"""`pilot probe` as a person, a program, and a terminal see it."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

PILOT = [sys.executable, "-m", "pilot", "probe"]


def probe(*arguments, **environment):
    environment = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run([*PILOT, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False)


def test_a_program_gets_one_object_with_sources(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * (1 << 20))
    done = probe(
        "--json", "--work", tmp_path, storageLimitMiB="20.0", POD_CPU_LIMIT_M="500", NVIDIA_VISIBLE_DEVICES="none"
    )
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert (found["cores"], found["limits_from"]["cores"]) == (0.5, "POD_CPU_LIMIT_M")
    assert (found["disk_bytes"], found["limits_from"]["disk"]) == (19 << 20, "storageLimitMiB")
    assert found["disk"]["used_bytes"] == 1 << 20
    assert found["gpus"] == []
    assert found["gpu"]["note"] == "no GPU: NVIDIA_VISIBLE_DEVICES is none"


def test_a_person_gets_a_table_with_sources(tmp_path):
    done = probe("--work", tmp_path, "--disk-limit", "20")
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert {"cores", "memory", "scratch", "processes", "cgroup", "processor"} <= set(lines)
    assert lines["scratch"].endswith("setting disk_limit")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--work", "/etc/passwd"), 64, "is no directory"),
        (("--work", "/etc/passwd/below"), 64, "is no directory"),
        (("--json", "--watch"), 78, "exclude each other"),
        (("--disk-limit", "much"), 78, "--disk-limit"),
        (("--alive", "--work", "/nonexistent"), 1, "no sign of life"),
    ],
    ids=str,
)
def test_what_is_wrong_is_one_line_and_its_exit_code(arguments, code, said):
    done = probe(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert said in line


def test_watching_prints_a_line_each_interval_and_ends_in_order_with_ctrl_c(tmp_path):
    command = [*PILOT, "--watch", "--interval", "0.1", "--work", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watch:
        lines = [line for line in (watch.stdout.readline() for _ in range(20)) if " of " in line and "CPU" in line]
        watch.send_signal(signal.SIGINT)
        assert watch.wait(20) == 0
        assert watch.stderr.read() == ""
    assert len(lines) >= 2
    assert all("memory" in line and "scratch" in line for line in lines)


def test_on_a_terminal_the_figures_are_refreshed_in_place(tmp_path):
    ours, theirs = pty.openpty()
    environment = {"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "100"}
    command = [*PILOT, "--watch", "--interval", "0.1", "--work", str(tmp_path)]
    watch = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said, until = b"", time.monotonic() + 20
    while said.count(b"in use at") < 3 and time.monotonic() < until and select.select([ours], [], [], 20)[0]:
        said += os.read(ours, 4096)
    watch.send_signal(signal.SIGINT)
    assert watch.wait(20) == 0
    os.close(ours)
    assert said.count(b"in use at") >= 3
    assert b"\x1b[1A" in said  # the cursor goes up again
