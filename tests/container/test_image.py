"""The image: how it is built, what is in it, and that jobs run in it the way a cluster would run it."""

import io
import json
import shutil
import subprocess
import tarfile
import time
import zlib
from pathlib import Path

import pytest

from pilot import __version__
from tests.lab import dump, until

pytestmark = pytest.mark.timeout(400)  # whichever test comes first builds the image

SCRIPT = Path(__file__).parents[2] / "container/build-image.sh"
# What a restricted pod has: no uid that the image knows, no capabilities, and one place to write to.
RESTRICTED = (
    "--user=23456:0", "--passwd=false", "--read-only", "--read-only-tmpfs=false", "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)  # fmt: skip
COMMON = ("--network=host", "--http-proxy=false", "--tmpfs=/scratch:rw,mode=1777,size=256m")
GRACE_S = 10


def log_members(serve, status):
    with tarfile.open(fileobj=io.BytesIO(serve.fetch(status["log"]))) as tar:
        return {member.name.rsplit("/", 1)[1]: tar.extractfile(member).read().decode() for member in tar}


def bare_path(place, *tools):
    """A PATH with these tools on it and nothing else."""
    place.mkdir()
    for tool in tools:
        (place / tool).symlink_to(shutil.which(tool))
    return str(place)


def test_without_a_builder_the_script_names_what_to_install(tmp_path):
    path = bare_path(tmp_path / "bin", "dirname", "id", "mktemp", "rm", "sed", "sh")
    done = subprocess.run(["sh", SCRIPT], env={"PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "install buildah, podman or docker" in line


def test_a_base_that_somebody_asked_for_is_not_replaced(podman):
    environment = {**podman.environment, "BASE": "dir:/nowhere"}
    done = subprocess.run(["sh", SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "dir:/nowhere cannot be pulled" in line


def test_the_image_says_what_it_is_and_how_it_starts_and_stops(podman, image):
    (found,) = json.loads(podman.answer("image", "inspect", image))
    config = found["Config"]
    assert (config["Entrypoint"], config["Cmd"]) == (["/opt/venv/bin/pilot"], ["run"])
    assert (config["User"], config["StopSignal"]) == ("10001:0", "SIGTERM")
    labels = {name.rsplit(".", 1)[1]: text for name, text in config["Labels"].items() if name.startswith("org.open")}
    assert (labels["title"], labels["licenses"], labels["version"]) == ("panda-pod-pilot", "Apache-2.0", __version__)
    assert f"localhost/panda-pod-pilot:{__version__}" in found["RepoTags"]


@pytest.fixture
def files(podman, image):
    """The image's root directory."""
    yield Path(podman.answer("image", "mount", image))
    podman.answer("image", "umount", image)


def test_the_image_holds_the_pilot_and_nothing_that_built_it(files):
    (packages,) = (files / "opt/venv/lib").glob("python3*/site-packages")
    assert (packages / "pilot/agent").is_dir()
    for unwanted in ("pilot/embedded", "pip", "setuptools", "tests", "pytest", "flask"):
        assert not (packages / unwanted).exists(), unwanted
    for compiler in ("cc", "gcc", "g++", "ld", "make"):
        assert not any((files / place / compiler).exists() for place in ("usr/bin", "usr/local/bin")), compiler
    for left in ("root/.cache", "source", "run/ca.pem", "etc/pip.conf"):
        assert not (files / left).exists(), left
    for empty in ("scratch", "tmp"):
        assert not list((files / empty).iterdir()), empty


def test_bytecode_is_in_the_image_since_none_can_be_written_later(files):
    (packages,) = (files / "opt/venv/lib").glob("python3*/site-packages")
    modules = list(packages.rglob("*.py"))
    assert len(modules) > 500
    bare = [one for one in modules if not list((one.parent / "__pycache__").glob(f"{one.stem}.*.pyc"))]
    assert not bare


def test_the_image_has_no_server(podman, image):
    done = podman("run", "--rm", *COMMON, *RESTRICTED, image, "serve", "--port", 0)
    assert (done.returncode, done.stdout) == (78, "")
    (line,) = done.stderr.splitlines()
    assert "panda-pod-pilot[embedded]" in line


def submit_count(serve):
    words = b"two\none\n"
    return serve.submit(
        name="count",
        command="sort words.txt > sorted.txt; tr '\\0' ' ' </proc/1/cmdline; echo; id -u",
        inputs=[
            {"name": "words.txt", "url": serve.store("w", words), "checksum": f"adler32:{zlib.adler32(words):08x}"}
        ],
        outputs=["sorted.txt"],
    )


def check_count(serve, job_id, uid, log):
    """It finished, with one final, its output and its log; PID 1 was the pilot."""
    status = serve.ended(job_id)
    assert [(one["call"], one["state"]) for one in status["history"]] == [
        ("acquire_jobs", "sent"), ("update_job", "starting"), ("update_job", "running"), ("update_job", "finished"),
        ("adder", "finished"),
    ], dump(status) + log  # fmt: skip
    (output,) = status["outputs"]
    assert serve.fetch(output["url"]) == b"one\ntwo\n"
    first, user = log_members(serve, status)["payload.stdout"].splitlines()
    assert first.split()[1:3] == ["/opt/venv/bin/pilot", "run"]
    assert user == uid


def test_a_job_runs_in_a_restricted_container_with_any_uid(serve, podman, image):
    job_id = submit_count(serve)
    done = podman("run", "--rm", *COMMON, *RESTRICTED, image, "run", "--max-jobs", 1, "--server", serve.url)
    assert done.returncode == 0, done.stderr + done.stdout
    check_count(serve, job_id, "23456", done.stdout)


def test_the_pilot_writes_nowhere_but_to_scratch_even_where_it_could(serve, podman, image, containers):
    job_id, name = submit_count(serve), containers()
    done = podman("run", "--name", name, *COMMON, image, "run", "--max-jobs", 1, "--server", serve.url)
    assert done.returncode == 0, done.stderr + done.stdout
    check_count(serve, job_id, "10001", done.stdout)
    changes = json.loads(podman.answer("diff", "--format", "json", name))
    # podman's own: the places that it mounts its files on
    own = ("/etc", "/run", "/dev", "/proc", "/sys")
    assert [path for paths in changes.values() for path in paths or () if not path.startswith(own)] == []


def start(podman, serve, image, name):
    """A restricted container in the background; its main process as the host sees it."""
    settings = ("--env", f"PILOT_GRACE={GRACE_S}", "--env", "PILOT_IN_POD=yes")
    podman.answer(
        "run", "--detach", "--name", name, *COMMON, *RESTRICTED, *settings, image, "run", "--server", serve.url
    )
    return int(podman.answer("inspect", "--format", "{{.State.Pid}}", name))


def test_stopping_the_container_ends_a_deaf_payload_and_tells_the_server(serve, podman, image, containers):
    job_id = serve.submit(command="trap '' TERM; touch deaf; while :; do sleep 0.1; done")
    name = containers()
    pid = start(podman, serve, image, name)
    until(lambda: list(Path(f"/proc/{pid}/root/scratch").rglob("deaf")), what="the payload's trap")
    assert "NSpid:\t%d\t1\n" % pid in Path(f"/proc/{pid}/status").read_text()
    began = time.monotonic()
    podman.answer("stop", "--time", GRACE_S, name)
    assert time.monotonic() - began < GRACE_S
    assert podman.answer("inspect", "--format", "{{.State.ExitCode}}", name) == "0", podman("logs", name).stdout
    status = serve.ended(job_id)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1379), dump(status)
    assert len(serve.finals(job_id)) == 1
    assert "payload.stdout" in log_members(serve, status)
