"""How our own commands find a server's local token, what is done about planted ones, and where `serve` listens."""

import hashlib
import os
import socket
import stat
import subprocess
import sys

import pytest

from tests.hostile.served import ALIVE, Target
from tests.lab import DEADLINE_S, clean_environment, free_port

JOB = "command: 'true'\n"


@pytest.fixture
def here(tmp_path):
    """A place for notes that this test alone uses, and a job to be submitted."""
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


@pytest.fixture
def start(here, monkeypatch):
    """Starts servers that leave their notes there; all of them end with the test."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(here / "run"))
    started = []

    def serve(*arguments, name="one"):
        (here / name).mkdir(exist_ok=True)
        started.append(Target(here / name, *arguments))
        return started[-1]

    yield serve
    for one in started:
        one.end()


def pilot(here, *arguments, **environment):
    """Exit code, stdout and stderr of a command."""
    done = subprocess.run(
        [sys.executable, "-m", "pilot", *map(str, arguments)],
        env={**clean_environment(), "XDG_RUNTIME_DIR": str(here / "run"), **environment},
        cwd=here,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def notes(here):
    return here / "run" / f"pilot-serve-{os.geteuid()}"


def test_submit_and_status_find_the_token_of_a_server_of_this_machine(here, start):
    server = start()
    for url in (server.url, f"{server.url}/", server.url.replace("127.0.0.1", "localhost")):
        code, out, errors = pilot(here, "submit", "job.yaml", "--server", url)
        assert (code, errors) == (0, ""), errors
        job = out.split()[1]
        assert pilot(here, "status", job, "--server", url)[0] == 0
    assert stat.S_IMODE(notes(here).stat().st_mode) == 0o700
    assert server.token not in "".join(path.read_text() for path in notes(here).iterdir())


def test_two_servers_are_not_mixed_up_and_an_ended_one_leaves_no_note(here, start):
    first, second = start(name="first"), start(name="second")
    for server in (first, second):
        assert pilot(here, "submit", "job.yaml", "--server", server.url) == (0, "job 1 submitted\n", "")
    first.end()
    assert [path.name for path in notes(here).iterdir()] == [f"127.0.0.1_{second.port}"]


def test_a_note_that_a_killed_server_has_left_does_not_lead_to_the_token_of_the_next(here, start):
    """Somebody else may listen where the killed one did."""
    first = start("--port", str(free_port()))
    first.process.kill()
    first.process.wait()
    assert [path.name for path in notes(here).iterdir()] == [f"127.0.0.1_{first.port}"]
    second = start()
    with socket.create_server(("127.0.0.1", first.port)) as stranger:
        asked = one_request(here, stranger, b"HTTP/1.1 401 x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}", 78)
    assert second.token.encode() not in asked
    assert b"uthorization" not in asked
    assert pilot(here, "submit", "job.yaml", "--server", second.url) == (0, "job 1 submitted\n", "")


def one_request(here, stranger, answer, code):
    """What `status` sends to a stranger who answers so; it leaves with ``code``."""
    command = [sys.executable, "-m", "pilot", "status", "1"]
    url = f"http://127.0.0.1:{stranger.getsockname()[1]}"
    environment = {**clean_environment(), "XDG_RUNTIME_DIR": str(here / "run")}
    with subprocess.Popen([*command, "--server", url], env=environment, stderr=subprocess.PIPE, text=True) as child:
        connection, _ = stranger.accept()
        with connection:
            asked = connection.recv(65536)
            connection.sendall(answer)
        assert child.wait(DEADLINE_S) == code
    return asked


def test_elsewhere_the_environment_has_the_token(here, start):
    server = start()
    (notes(here) / f"127.0.0.1_{server.port}").unlink()
    code, _, errors = pilot(here, "submit", "job.yaml", "--server", server.url)
    assert code == 78
    assert errors.count("\n") == 1
    assert "PILOT_LOCAL_TOKEN" in errors
    assert "--data" in errors
    assert pilot(here, "status", 1, "--server", server.url)[0] == 78
    given = {"PILOT_LOCAL_TOKEN": server.token}
    assert pilot(here, "submit", "job.yaml", "--server", server.url, **given) == (0, "job 1 submitted\n", "")
    assert pilot(here, "status", 1, "--server", server.url, **given)[0] == 0


@pytest.mark.parametrize("wrong", ["another-servers", "a\nHost: evil.example", "ü", "x" * 600])
def test_a_wrong_token_is_one_line_that_does_not_show_it(here, start, wrong):
    server = start()
    code, _, errors = pilot(here, "status", 1, "--server", server.url, PILOT_LOCAL_TOKEN=wrong)
    assert (code, errors.count("\n")) == (78, 1)
    assert "token" in errors
    assert wrong not in errors


def test_try_does_not_hand_a_token_of_the_environment_on(here):
    (here / "job.yaml").write_text("command: env | grep -c GEHEIM > seen; true\noutputs: [seen]\n")
    code, _, errors = pilot(here, "try", "job.yaml", "--out", here / "out", PILOT_LOCAL_TOKEN="GEHEIM-anothers")
    assert code == 0, errors
    assert (here / "out" / "seen").read_text() == "0\n"


def planted(kind, folder):
    """What somebody else may have put where the notes go."""
    elsewhere = folder.parent.parent / "elsewhere"
    elsewhere.mkdir(mode=0o700, exist_ok=True)
    if kind == "a link":
        folder.symlink_to(elsewhere)
    elif kind == "a file":
        folder.write_text("")
    elif kind == "a fifo":
        os.mkfifo(folder)
    elif kind == "open to all":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        folder.mkdir(mode=0o700)
        os.chown(folder, 12345, 12345)
    return elsewhere


@pytest.mark.parametrize("kind", ["a link", "a file", "a fifo", "open to all", "another's"])
def test_a_planted_directory_of_notes_is_not_used(here, start, kind):
    if kind == "another's" and os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    elsewhere = planted(kind, notes(here))
    server = start()
    assert list(elsewhere.iterdir()) == []
    assert not notes(here).is_dir() or list(notes(here).iterdir()) == []
    assert pilot(here, "submit", "job.yaml", "--server", server.url) == (0, "job 1 submitted\n", ""), "the next place"


def note_of(data, token):
    return hashlib.sha256(token.encode()).hexdigest().encode() + os.fsencode(data)


def forged(kind, here, server):
    """A note, or a token's file, that leads to what must not be sent to a server."""
    note, secret = notes(here) / f"127.0.0.1_{server.port}", here / "secret"
    secret.mkdir()
    (secret / "local_token").write_text("-----BEGIN-KEY-----")
    (secret / "local_token").chmod(0o600)
    lure = here / "lure"
    lure.mkdir()
    note.unlink()
    note.touch(mode=0o600)
    note.write_bytes(note_of(lure, "-----BEGIN-KEY-----"))
    note.chmod(0o600)
    token = lure / "local_token"
    if kind == "a link to a secret":
        token.symlink_to(secret / "local_token")
    elif kind == "a file that others can write":
        token.write_text("-----BEGIN-KEY-----")
        token.chmod(0o666)
    elif kind == "a fifo":
        os.mkfifo(token, 0o600)
    elif kind == "a directory":
        token.mkdir()
    elif kind == "several lines":
        token.write_text("-----BEGIN-KEY-----\nabc\n")
        token.chmod(0o600)
    elif kind == "a huge file":
        token.touch(mode=0o600)
        os.truncate(token, 1 << 40)
    elif kind == "a note that is a link":
        note.rename(here / "note")
        note.symlink_to(here / "note")
    else:
        note.write_bytes(note_of(kind, "-----BEGIN-KEY-----"))


KINDS = [
    "a link to a secret",
    "a file that others can write",
    "a fifo",
    "a directory",
    "several lines",
    "a huge file",
    "a note that is a link",
    "",
    "secret",
    "../secret",
    "\n",
    "/a\0b",
    "/" + "a/" * 5000,
    "/nowhere",
    "/proc/self/mem",
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind[:30])
def test_forged_notes_and_tokens_are_not_sent(here, start, kind):
    server = start()
    forged(kind, here, server)
    code, _, errors = pilot(here, "status", 1, "--server", server.url)
    assert (code, errors.count("\n")) == (78, 1), errors
    assert "PILOT_LOCAL_TOKEN" in errors


def test_the_token_goes_to_its_own_server_only(here, start):
    """Neither to a stranger at another address nor along a redirect."""
    server = start()
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        target = f"{server.url}/local/jobs/1"
        answer = f"HTTP/1.1 307 x\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        asked = one_request(here, stranger, answer.encode(), 1)
    assert b"GET /local/jobs/1" in asked
    assert b"uthorization" not in asked


def test_the_token_does_not_go_to_whoever_listens_at_another_localhost(here, start):
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    server = start()
    with socket.create_server(("::1", server.port), family=socket.AF_INET6) as stranger:
        stranger.settimeout(0)
        url = f"http://localhost:{server.port}"
        assert pilot(here, "submit", "job.yaml", "--server", url) == (0, "job 1 submitted\n", "")
        with pytest.raises(BlockingIOError):
            stranger.accept()


def test_a_server_with_tls_is_found_with_its_authority(here, start):
    server = start("--tls")
    assert pilot(here, "submit", "job.yaml", "--server", server.url) == (0, "job 1 submitted\n", "")
    code, _, errors = pilot(here, "status", 1, "--server", server.url, XDG_RUNTIME_DIR=str(here / "nowhere"))
    assert code == 1
    assert "certificate" in errors
    assert errors.count("\n") == 1


def test_a_study_with_its_sandbox_goes_to_a_server_that_demands_credentials(here, start):
    """The sandbox goes by one of PanDA's own calls: the local token is none of its credentials."""
    (here / "evaluate.py").write_text("pass\n")
    (here / "study.yaml").write_text(
        "study: s\nmax_points: 1\nsearch_space: {x: {method: uniform, dimension: {low: 0.0, high: 1.0}}}\n"
        "steering: {builtin: random, seed: 1}\nevaluation: {exec: python3 evaluate.py, sandbox: [evaluate.py]}\n"
    )
    server = start("--tls")
    code, out, errors = pilot(here, "submit", "study.yaml", "--server", server.url)
    assert (code, errors) == (0, ""), errors
    assert "study s submitted" in out


# --- where it listens -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("--host", "0.0.0.0"),
        ("--host", "::"),
        ("--host", "0"),
        ("--host", "0.0.0.0", "--tls", "--auth", "none"),
        ("--host", "0.0.0.0", "--auth", "required"),
    ],
)
def test_other_machines_are_not_let_in_by_one_word(here, arguments):
    code, out, errors = pilot(here, "serve", "--port", free_port(), "--data", here / "data", *arguments)
    assert (code, out, errors.count("\n")) == (78, "", 1)
    assert "--tls --auth required" in errors
    assert "--insecure" in errors
    assert not (here / "data").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(("--insecure",), "http"), (("--tls",), "https"), (("--tls", "--auth", "required"), "https")],
)
def test_other_machines_are_let_in_where_that_was_said(start, arguments, named):
    server = start("--host", "0.0.0.0", "--name", "serve.example.org", *arguments)
    assert server.url.startswith(f"{named}://0.0.0.0:")
    for host, status in (
        (f"serve.example.org:{server.port}", 200),
        (f"SERVE.example.org:{server.port}", 200),
        (f"{socket.gethostname()}:{server.port}", 200),
        (f"127.0.0.1:{server.port}", 200),
        (f"evil.example:{server.port}", 403),
    ):
        assert server.ask("GET", ALIVE, host=host).status == status, host
    assert server.get("/local/jobs").status == 401


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::1"])
def test_loopback_needs_no_more_words(here, start, host):
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    server = start("--host", host)
    assert pilot(here, "submit", "job.yaml", "--server", server.url) == (0, "job 1 submitted\n", "")
