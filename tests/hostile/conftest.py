import pytest

from tests.lab import Run, ended_runs


@pytest.fixture
def run(serve, tmp_path):
    """Starts `pilot run` against the server of the test; what is left of it ends with the test."""
    with ended_runs() as started:

        def start(*arguments, environment=None, server=None):
            work = tmp_path / f"work{len(started)}"
            started.append(Run(server or serve.url, work, *arguments, environment=environment))
            return started[-1]

        yield start
