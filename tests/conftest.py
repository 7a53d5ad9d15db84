import pytest

from tests.lab import Serve


@pytest.fixture
def serve(tmp_path):
    """An embedded server as a process, for one test; what happened at it is checked at the end."""
    server = Serve(tmp_path / "data")
    yield server
    server.stop()
