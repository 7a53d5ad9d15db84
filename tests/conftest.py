import pytest

from tests.lab import Serve
from tests.secrets import HANDED_OUT, leaks


@pytest.fixture(scope="session", autouse=True)
def nothing_leaks(tmp_path_factory):
    """When all tests are over, no secret that one of them handed out is in anything that was written (promise P6)."""
    yield
    found = leaks(HANDED_OUT, tmp_path_factory.getbasetemp())
    assert not found, f"secrets are in: {', '.join(found)}"


@pytest.fixture
def serve(tmp_path):
    """An embedded server as a process, for one test; what happened at it is checked at the end."""
    server = Serve(tmp_path / "data")
    yield server
    server.stop()
