"""The image, built once for all tests, and the server that its pilots talk to."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.container.podman import Podman
from tests.lab import Serve

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def podman():
    """Podman on storage that ends with the session."""
    if reason := Podman.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with Podman() as podman:
        yield podman


@pytest.fixture(scope="session")
def image(podman):
    """The name of the image that container/build-image.sh makes of this checkout."""
    built = subprocess.run(
        ["sh", ROOT / "container/build-image.sh"], env=podman.environment, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, (built.stdout + built.stderr)[-4000:]
    return "localhost/panda-pod-pilot:dev"


@pytest.fixture
def containers(podman):
    """Names for containers; what carries one is removed when the test ends."""
    names = []

    def name():
        names.append(f"pilot-{len(names)}")
        return names[-1]

    yield name
    for one in names:
        podman("rm", "--force", "--ignore", "--time", "0", one)


@pytest.fixture
def serve(tmp_path):
    """An embedded server outside of the containers, which share its network."""
    server = Serve(tmp_path / "data")
    yield server
    server.stop()
