import pytest

from tests.lab import Run, ended_runs


@pytest.fixture
def lives(serve, tmp_path):
    """Starts one command after the other (`run` if none is named) on the scratch directory of the test."""
    with ended_runs() as started:
        work = tmp_path / "work"
        work.mkdir()

        def begin(*arguments, command=None, environment=None, server=None):
            started.append(Run(server or serve.url, work, *arguments, environment=environment, command=command))
            named = tmp_path / f"life{len(started)}.log"
            (tmp_path / "work.log").rename(named)
            started[-1].log = named
            return started[-1]

        begin.work = work
        yield begin
