"""The starters for places that expect another name, as processes under the PID 1 that a pod would give them."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import trustme

from tests import harvester
from tests.lab import DEADLINE_S, dump, until

WRAPPERS = Path(__file__).parents[2] / "wrappers"
STARTER = WRAPPERS / "pilots_starter.py"
WRAPPER = WRAPPERS / "runpilot2-wrapper.sh"
VENV = Path(sys.executable).parent
SYSTEM_PATH = "/usr/bin:/bin"
GRACE_S = 6
NEW_PID_NAMESPACE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
ENTRYPOINTS = {
    "pilot": ["pilot", "run"],
    "starter": ["python3", STARTER],
    "wrapper": ["sh", WRAPPER, "-q", "LOCAL", "-r", "LOCAL", "-s", "LOCAL", "-j", "unified", "-w", "generic", "-t"],
}


class Pod:
    """A process that is PID 1 of a namespace of its own, as a container's main process is."""

    def __init__(self, place, command, environment):
        self.out, self.err = place / "out", place / "err"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.unshare = subprocess.Popen(
                [*NEW_PID_NAMESPACE, *map(str, command)], stdout=out, stderr=err, env=environment
            )

    def init(self):
        """PID 1, seen from outside. To be asked while it lives."""
        return until(psutil.Process(self.unshare.pid).children, what="PID 1 of the namespace")[0]

    def says(self, text):
        until(lambda: text in self.out.read_text(), what=f"{text!r} in {self.said()}")

    def said(self):
        return self.out.read_text() + self.err.read_text()

    def terminate(self):
        """What the kubelet does: TERM for PID 1, and for no other process."""
        self.init().send_signal(signal.SIGTERM)

    def wait(self):
        return self.unshare.wait(DEADLINE_S)

    def end(self):
        """The namespace dies with its PID 1, which dies with `unshare`."""
        if self.unshare.poll() is None:
            self.unshare.kill()
            self.unshare.wait()


@pytest.fixture
def pod(tmp_path):
    """Starts a pod; skips where no PID namespace can be made."""
    probe = [*NEW_PID_NAMESPACE, "true"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        reason = "no PID namespace can be made here: that needs root and util-linux"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    started = []

    def start(command, environment):
        started.append(Pod(tmp_path, command, environment))
        return started[-1]

    yield start
    for one in started:
        one.end()


@pytest.fixture
def scratch(tmp_path):
    """What Harvester's pods have as TMPDIR and HOME."""
    place = tmp_path / "pilotdir"
    place.mkdir()
    return place


@pytest.fixture
def proxy(tmp_path):
    """The file that is mounted from the Secret."""
    certificate = trustme.CA().issue_cert("pilot.example.org")
    file = tmp_path / "x509up"
    certificate.private_key_and_cert_chain_pem.write_to_path(file)
    return file


@pytest.fixture
def environment(scratch, proxy):
    """Exactly what Harvester sets, and PATH."""
    return {
        **harvester.environment(TMPDIR=str(scratch), HOME=str(scratch), proxySecretPath=str(proxy)),
        "PANDA_HOSTNAME": "node-17",
        "EXEC_DIR": str(WRAPPERS),
        "PATH": f"{VENV}:{SYSTEM_PATH}",
    }


@pytest.fixture
def site(serve, scratch):
    """What is of the site: variables that container/harvester-job.yaml adds, and where Harvester says logs go."""
    return {
        "PILOT_SERVER": serve.url,
        "PILOT_GRACE_S": str(GRACE_S),
        "PILOT_TERMINATION_LOG": str(scratch / "termination-log"),  # no kubelet mounts one over this machine's
        "logs_frontend_w": f"{serve.url}/server/panda",
        "logs_frontend_r": f"{serve.url}/cache",
    }


def stand_in(place, text):
    """A PATH on which `pilot` is this shell script, and Python is ours."""
    place.mkdir()
    script = place / "pilot"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    return f"{place}:{VENV}:{SYSTEM_PATH}"


def ended(command, environment):
    """Run a command to its end."""
    return subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )


def settings(done):
    """What `pilot run --show-settings` printed, by name: value and origin."""
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    return {row[0]: (row[1] if len(row) > 2 else "", row[-1]) for row in rows}


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_term_at_pid_1_ends_in_one_final_inside_the_grace(pod, serve, environment, site, entrypoint):
    # Given: a payload that ignores TERM, under a pilot that was started this way
    job_id = serve.submit(command="trap '' TERM; while :; do sleep 0.1; done")
    running = pod(ENTRYPOINTS[entrypoint], {**environment, **site})
    running.says("payload started")
    # When: the kubelet stops the pod
    running.terminate()
    began = time.monotonic()
    # Then: the pilot is gone with a margin, and the server knows why
    assert running.wait() == 0, running.said()
    assert time.monotonic() - began < GRACE_S - 0.2 * GRACE_S
    status = serve.ended(job_id)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1379), dump(status)
    assert len(serve.finals(job_id)) == 1
    assert status["log"], "the log was saved"


@pytest.mark.parametrize("entrypoint", ENTRYPOINTS)
def test_the_server_is_told_what_harvester_said_of_the_worker(pod, serve, environment, site, entrypoint):
    job_id = serve.submit(command="true")
    running = pod(ENTRYPOINTS[entrypoint], {**environment, **site})
    assert running.wait() == 0, running.said()
    assert serve.ended(job_id)["state"] == "finished", running.said()
    (acquired, *_) = (json.loads(one["body"]) for one in serve.calls("acquire_jobs"))
    assert (acquired["site_name"], acquired["prod_source_label"], acquired["node"]) == ("LOCAL", "unified", "node-17")
    workers = [json.loads(one["body"]) for one in serve.calls("update_worker_status")]
    assert [one["status"] for one in workers] == ["started", "finished"]
    assert {(one["harvester_id"], str(one["worker_id"])) for one in workers} == {("lab_k8s_1", "4711")}
    assert json.loads(serve.calls("update_job", job_id)[-1]["body"])["batch_id"] == "pilot-4711"


def test_under_harvesters_shell_the_starter_says_that_no_term_will_come_and_goes_on(
    pod, serve, environment, site, tmp_path
):
    # Given: Harvester's own command, and a payload that waits for us
    go = tmp_path / "go"
    job_id = serve.submit(command=f"until [ -e {go} ]; do sleep 0.1; done")
    shell = [*harvester.STOCK_COMMAND, *harvester.STOCK_ARGUMENTS]
    running = pod(shell, {**environment, **site})
    running.says("payload started")
    # Then: PID 1 is a shell indeed, and one line says so and what to do
    assert running.init().name() == "bash"
    (line,) = [one for one in running.err.read_text().splitlines() if "pilots_starter" in one]
    assert "PID 1 is bash, so no TERM will reach the pilot" in line
    advice = line.split("command: ")[1]
    assert json.loads(advice)[1:] == [str(STARTER)]
    # And it is true
    running.terminate()
    go.touch()
    assert running.wait() == 0
    assert serve.ended(job_id)["state"] == "finished"


def test_a_starter_that_is_pid_1_or_below_an_init_does_not_complain(pod, environment, tmp_path):
    environment["PATH"] = stand_in(tmp_path / "bin", "true")
    forwarding_init = "import os, signal, sys; signal.signal(signal.SIGTERM, print); sys.exit(os.system(sys.argv[1]))"
    for command in (["python3", STARTER], ["python3", "-c", forwarding_init, f"python3 {STARTER}; true"]):
        running = pod(command, environment)
        assert (running.wait(), running.said()) == (0, "")


def test_the_pilot_reads_harvesters_variables_itself(environment, proxy, scratch):
    found = settings(ended(["python3", STARTER, "--show-settings"], environment))
    expected = {
        "queue": "LOCAL", "label": "unified", "resource_type": "SCORE", "job_type": "unified", "pilot_type": "PR",
        "harvester_id": "lab_k8s_1", "worker_id": "4711", "scheduler_id": "harvester-lab_k8s_1", "node": "node-17",
        "batch_id": "pilot-4711", "in_pod": "True", "work": str(scratch), "certificate": str(proxy),
        "token_origin": "atlas.pilot", "submit_mode": "PULL",
    }  # fmt: skip
    assert {name: found[name][0] for name in expected} == expected


def test_push_mode_names_the_job_file(environment, tmp_path):
    environment["PATH"] = stand_in(tmp_path / "bin", 'echo "$@"')
    job_file = "/scratch/jobconfig/pandaJobData.out"
    assert ended(["python3", STARTER], environment).stdout.split() == ["run"]
    environment["submit_mode"] = "PUSH"
    assert ended(["python3", STARTER], environment).stdout.split() == ["run", "--job", job_file]
    pushed = ended(["sh", WRAPPER, "--harvester-submit-mode=PUSH"], environment)
    assert pushed.stdout.split() == ["run", "--job", job_file]
    beside = tmp_path / "pandaJobData.out"
    beside.touch()
    pushed = ended(["sh", WRAPPER, "--harvester-submit-mode", "PUSH", "-a", tmp_path], environment)
    assert pushed.stdout.split() == ["run", "--work", str(tmp_path), "--job", str(beside)]


def test_without_a_command_the_starter_finds_the_module(environment):
    environment["PATH"] = SYSTEM_PATH
    assert settings(ended([sys.executable, STARTER, "--show-settings"], environment))["queue"][0] == "LOCAL"


@pytest.mark.parametrize("command", [[sys.executable, "-S", STARTER], ["sh", WRAPPER]], ids=["starter", "wrapper"])
@pytest.mark.skipif(Path("/opt/venv/bin/pilot").exists(), reason="there is a pilot where images have it")
def test_without_a_pilot_the_site_is_to_blame(environment, command, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sh").symlink_to(shutil.which("sh"))
    done = ended(command, {**environment, "PATH": str(tools)})
    assert (done.returncode, done.stdout) == (64, "")
    (line,) = done.stderr.splitlines()
    assert "there is no pilot" in line


def test_the_starter_is_python_3_9():
    ast.parse(STARTER.read_text(), feature_version=(3, 9))


def test_options_of_the_wrapper_become_settings(environment, tmp_path, scratch):
    environment["PATH"] = stand_in(tmp_path / "bin", f'exec {VENV}/pilot "$@" --show-settings')
    options = [
        "-q", "OTHER", "-a", tmp_path / "a b", "-j", "rc_test2", "-i", "RC", "--resource-type", "GPU",
        "--job-type=user", "-d", "-l", "3600", "--url=panda.example.org", "--port", "8443", "--queuedata-url",
        "file:///q.json", "--storagedata-url=file:///s.json", "--cacert", "/c.pem",
        "--capath=/ca", "-g", "https://a.example.org,https://b.example.org",
    ]  # fmt: skip
    done = ended(["sh", WRAPPER, *options], environment)
    found = {name: value for name, (value, _origin) in settings(done).items()}
    assert f"{tmp_path}/a b " in done.stdout
    expected = {
        "queue": "OTHER", "label": "rc_test2", "pilot_type": "RC", "resource_type": "GPU", "job_type": "user",
        "log_level": "debug", "deadline": "3600.0", "server": "https://panda.example.org:8443",
        "queuedata": "file:///q.json", "storagedata": "file:///s.json", "certificate": "/c.pem", "ca": "/ca",
        "transform_urls": "https://a.example.org,https://b.example.org",
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("options", "server"),
    [
        (["--url=https://panda.example.org"], "https://panda.example.org:25443"),
        (["--url", "panda.example.org/"], "https://panda.example.org:25443"),
        (["--url", "http://panda.example.org"], "http://panda.example.org:25080"),
        (["--url", "http://panda.example.org:80", "-p", "1"], "http://panda.example.org:80"),
        (["-p", "1", "--url", "https://[::1]"], "https://[::1]:1"),
        (["--url=https://[::1]:2/server"], "https://[::1]:2/server"),
    ],
)
def test_a_server_gets_the_port_that_pilot_py_would_give_it(environment, tmp_path, options, server):
    environment["PATH"] = stand_in(tmp_path / "bin", 'echo "$@"')
    assert ended(["sh", WRAPPER, *options], environment).stdout.split() == ["run", "--server", server]


def test_options_without_meaning_and_unknown_ones_are_ignored_with_one_line_each(environment, tmp_path):
    environment["PATH"] = stand_in(tmp_path / "bin", 'echo "$@"')
    meaningless = [
        "-r", "R", "-s", "S", "-w", "generic", "-t", "-S", "--piloturl", "http://p/p.tar.gz", "--pilotversion=3",
        "--pythonversion", "3", "--localpy", "--container", "--cvmfsbase=/cvmfs", "--alma9", "--harvester", "node",
        "--harvester_workflow=w", "--mute", "--shoal", "--workflow", "generic", "--pilot-user=ATLAS",
        "--allow-same-user=False",
    ]  # fmt: skip
    unknown = ["--new", "--password=s3cret", "--token", "s3cret", "-Z", "stray\nword", "--$(id)=x", "`id`", ""]
    done = ended(["sh", WRAPPER, *meaningless, *unknown, "-q", "Q"], environment)
    assert (done.returncode, done.stdout.split()) == (0, ["run", "--queue", "Q"])
    lines = done.stderr.splitlines()
    assert all(line.startswith("runpilot2-wrapper: ") and "ignored" in line for line in lines), lines
    named = [line.split()[1] for line in lines if "an argument" not in line]
    assert named == [
        *(one.split("=")[0] for one in meaningless if one.startswith("-")), "--new", "--password", "--token", "-Z",
    ]  # fmt: skip
    assert "s3cret" not in done.stderr
    assert "uid=" not in done.stderr
    assert sum("an argument" in line for line in lines) == 3, "-Z took the stray word for its value"


def test_the_wrapper_names_the_option_that_lacks_its_value(environment):
    for options in (["-q"], ["--url", "-d"]):
        done = ended(["sh", WRAPPER, *options], environment)
        assert (done.returncode, done.stdout) == (78, "")
        assert done.stderr == f"runpilot2-wrapper: {options[0]} needs a value\n"


def test_the_wrapper_explains_itself(environment):
    done = ended(["sh", WRAPPER, "-h"], environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: runpilot2-wrapper.sh" in done.stdout
