"""`pilot copy` as a person, a script and a terminal see it."""

import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
import trustme

from pilot.agent.commands.copy_command import with_checksum_value
from pilot.agent.local.copyplan import Place, make_plan
from pilot.staging.order import Entry
from pilot.values.errors import FileMissing, Unreachable, UsageError
from tests.lab import clean_environment, until
from tests.storage.fault_server import BODY, FaultServer
from tests.storage.plain_store import PlainStore, Ways
from tests.storage.tokens import Issuer
from tests.storage.xrootd_server import XrootdServer

COPY = [sys.executable, "-m", "pilot", "copy"]
LINE = re.compile(r"adler32:[0-9a-f]{8} +\S+ [kMG]?B +([\d.]+ [kMG]?B/s|there already)?  (\S.*)")


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def store(authority):
    """A real xrootd: root and https."""
    if reason := XrootdServer.missing():
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with XrootdServer(authority) as server:
        yield server


@pytest.fixture
def ca(authority, tmp_path):
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def faults():
    with FaultServer() as server:
        yield server


def copy(*arguments, cwd=None, **environment):
    return subprocess.run(
        [*COPY, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**clean_environment(), **environment},
        timeout=100,
        check=False,
    )


def as_json(*arguments, code=0, **more):
    done = copy("--json", *arguments, **more)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def make_tree(top: Path, files=200) -> Path:
    """Files of a few kB in three directories, and two that are larger."""
    chance = random.Random(6)
    for number in range(files):
        size = chance.randint(0, 30_000) if number > 1 else 3 << 20
        path = top / ("", "events", "events/muons")[number % 3] / f"user.alice.{number:06d}.root"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(size))
    return top


def content_of(top: Path):
    return {str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def test_a_directory_goes_to_root_and_back_in_json(store, tmp_path):
    tree, url = make_tree(tmp_path / "run"), store.root(f"json-{tmp_path.name}")
    sent = as_json(tree, url + "/")
    back = as_json(url + "/run", tmp_path / "back")
    assert content_of(tmp_path / "back") == content_of(tree)
    for found in (sent, back):
        assert found["failed"] == []
        assert len(found["files"]) == 200
        assert found["bytes"] == sum(map(len, content_of(tree).values()))
        assert set(found["files"][0]) == {
            "source",
            "destination",
            "size",
            "checksum",
            "seconds",
            "speed",
            "there",
            "verified",
        }
        assert {one["verified"] for one in found["files"]} == {"checksum"}
    one = next(one for one in sent["files"] if one["source"].endswith("events/muons/user.alice.000002.root"))
    file = tree / "events/muons/user.alice.000002.root"
    assert one["source"] == file.as_uri()
    assert one["destination"] == f"{url}/run/events/muons/user.alice.000002.root"
    assert (one["size"], one["checksum"]) == (file.stat().st_size, f"adler32:{zlib.adler32(file.read_bytes()):08x}")


def test_a_directory_goes_to_root_and_back_on_a_terminal(store, tmp_path):
    tree, url = make_tree(tmp_path / "run"), store.root(f"terminal-{tmp_path.name}")
    for arguments in ([tree, url + "/"], [url + "/run/", tmp_path / "back"]):
        code, screen = on_a_terminal(arguments)
        assert code == 0, screen
        lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "\n", screen).splitlines()]
        assert len({line for line in lines if LINE.fullmatch(line)}) == 200
        assert any(re.fullmatch(r"200 files, 9\.\d MB in [\d.]+ s \(.*/s\)", line) for line in lines), lines[-5:]
        assert max(map(len, lines)) <= 80
        assert "of 200 files" in screen  # the bar of all
    assert content_of(tmp_path / "back") == content_of(tree)


def on_a_terminal(arguments):
    """Exit code, and all that was written to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    environment = {**clean_environment(), "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        [*COPY, *map(str, arguments)], env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    said = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            said += os.read(ours, 65536)
        except OSError:  # nobody has it open any more
            break
    os.close(ours)
    return process.wait(20), said.decode()


def test_lines_for_a_pipe_have_checksum_size_speed_and_name_and_a_sum_at_the_end(tmp_path):
    tree = make_tree(tmp_path / "run", 5)
    done = copy("-r", tree, tmp_path / "there")
    assert (done.returncode, done.stderr) == (0, "")
    *lines, summary = done.stdout.splitlines()
    assert {LINE.fullmatch(line)[2] for line in lines} == {f"run/{name}" for name in content_of(tree)}
    assert summary.startswith("5 files, 6.")
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("source", "target", "found"),
    [
        ("run", "new", {"new/a", "new/sub/b c"}),
        ("run", "new/", {"new/run/a", "new/run/sub/b c"}),
        ("run", "old", {"old/run/a", "old/run/sub/b c"}),
        ("run/", "old", {"old/a", "old/sub/b c"}),
        ("run/.", "old", {"old/a", "old/sub/b c"}),
        ("run/sub/../a", "new", {"new"}),
        ("run/a", "new/deep/", {"new/deep/a"}),
        ("run/a", "old", {"old/a"}),
        ("link", "old", {"old/link"}),
        ("run/sub/b c", "old", {"old/b c"}),
    ],
)
def test_where_a_file_goes_is_as_with_cp(tmp_path, source, target, found):
    for name in ("run/a", "run/sub/b c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "old").mkdir()
    (tmp_path / "link").symlink_to("run/a")
    before = set(content_of(tmp_path))
    done = copy(source, target, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert set(content_of(tmp_path)) - before == found


@pytest.mark.parametrize("protocol", ["https", "davs", "roots"])
def test_a_directory_goes_by_tls_and_back(store, ca, tmp_path, protocol):
    tree, url = make_tree(tmp_path / "run", 7), getattr(store, protocol)(f"{protocol}-{tmp_path.name}/x")
    assert copy("--ca", ca, tree, url).returncode == 0
    assert copy("--ca", "ca.pem", url, "back", cwd=tmp_path).returncode == 0
    assert content_of(tmp_path / "back") == content_of(tree)


def test_from_storage_to_storage_the_bytes_pass_through_us_or_not(store, ca, tmp_path):
    store.put(f"/{tmp_path.name}/a", BODY)
    here, checksum = f"{tmp_path.name}/a", f"adler32:{zlib.adler32(BODY):08x}"
    for number, (source, target, options) in enumerate([
        (store.root, store.https, []),
        (store.root, store.root, ["--third-party", "pull"]),
        (store.https, store.https, ["--third-party", "pull"]),
        (store.https, store.https, ["--third-party", "push"]),
    ]):  # fmt: skip
        name = f"{tmp_path.name}/b{number}"
        (one,) = as_json("--ca", ca, *options, source(here), target(name))["files"]
        assert (one["size"], one["checksum"]) == (len(BODY), checksum)
        assert (store.data / name).read_bytes() == BODY


def test_what_is_there_already_will_do_if_it_has_the_same_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"bytes")
    first, second = copy(tmp_path / "a", tmp_path / "b"), as_json(tmp_path / "a", tmp_path / "b")
    assert (first.returncode, "there already" in first.stdout) == (0, False)
    assert ([one["there"] for one in second["files"]], second["bytes"]) == ([True], 0)
    assert "there already" in copy(tmp_path / "a", tmp_path / "b").stdout
    (tmp_path / "a").write_bytes(b"others")
    done = copy(tmp_path / "a", tmp_path / "b")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("pilot: copy: a: ")
    assert "another file is there already" in line
    assert (tmp_path / "b").read_bytes() == b"bytes"
    assert copy("--overwrite", tmp_path / "a", tmp_path / "b").returncode == 0
    assert (tmp_path / "b").read_bytes() == b"others"


def test_a_failure_is_one_line_and_the_rest_goes_on(faults, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a").write_text("a")
    (tmp_path / "run" / "loop").symlink_to(".")
    os.mkfifo(tmp_path / "run" / "pipe")
    (tmp_path / "run" / os.fsdecode(b"b\xff")).write_text("b")
    done = copy("missing", "run", faults.url("code/404"), "there/", cwd=tmp_path)
    assert done.returncode == 1
    assert content_of(tmp_path / "there") == {"run/a": b"a"}
    names = {line.split(": ")[2] for line in done.stderr.splitlines()}
    run = tmp_path / "run"
    assert names == {"missing", f"{run}/loop", f"{run}/pipe", f"{run}/b?", faults.url("code/404")}


def test_an_empty_directory_is_nothing_to_copy(tmp_path):
    (tmp_path / "run" / "sub").mkdir(parents=True)
    done = copy("run", "there", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing to copy: no file in run\n", "")


def test_a_checksum_is_compared(tmp_path):
    (tmp_path / "a").write_bytes(BODY)
    good = f"adler32:{zlib.adler32(BODY):08x}"
    for arguments in (["--checksum", good, "a", "b/"], ["a", "c", "--checksum"], ["--checksum", "a", "d"]):
        assert good in copy(*arguments, cwd=tmp_path).stdout
    done = copy("a", "e", "--checksum", "ad:1a2b3c4d", cwd=tmp_path)
    assert done.returncode == 1
    assert "1a2b3c4d" in done.stderr
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("--checksum a b", "--checksum=adler32 a b"),
        ("a b --checksum", "a b --checksum=adler32"),
        ("a b --checksum --json", "a b --checksum=adler32 --json"),
        ("--checksum ad:1 a b", "--checksum=ad:1 a b"),
        ("--checksum MD5:aa a b", "--checksum=MD5:aa a b"),
        ("--checksum adler32 a b", "--checksum=adler32 a b"),
        ("--checksum -- --checksum b", "--checksum=adler32 -- --checksum b"),
        ("--checksum=ad:1 a b", "--checksum=ad:1 a b"),
    ],
)
def test_the_value_of_checksum_may_be_left_out(given, found):
    assert with_checksum_value(given.split()) == found.split()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "SRC"),
        (["a"], "SRC"),
        (["a", "ftp://host/b"], "ftp://host/b"),
        (["a", "root://host:port//b"], "root://host:port//b"),
        (["a", "https:///b"], "https:///b"),
        (["a", "https://host/x/../b"], "https://host/x/../b"),
        (["--third-party", "pull", "a", "https://host/b"], "--third-party"),
        (["--third-party", "pull", "root://host//a", "https://host/b"], "--third-party"),
        (["--third-party", "move", "a", "b"], "--third-party"),
        (["--parallel", "0", "a", "b"], "--parallel"),
        (["--parallel", "17", "a", "b"], "--parallel"),
        (["--checksum", "md5", "a", "b"], "md5:HEX"),
        (["--checksum", "md5:12", "a", "b"], "32 hex digits"),
        (["--checksum", "ad:12345678", "run", "b/"], "more than one"),
        (["--token", "missing", "a", "b"], "--token missing"),
        (["--tokens", "a", "a", "b"], "--tokens a"),
        (["--proxy", "missing", "a", "b"], "--proxy missing"),
        (["--ca", "missing", "a", "b"], "--ca missing"),
        (["--config", "missing", "a", "b"], "missing"),
        (["a", "run", "run/x"], "it is a file"),
        (["run", "run/x/"], "it is a file"),
        (["run/x", "./run/x", "there/"], "would both become"),
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line_that_names_it(tmp_path, arguments, said):
    (tmp_path / "run").mkdir()
    for name in ("a", "run/x", "run/y"):
        (tmp_path / name).write_text(name)
    done = copy(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (78, "")
    (line,) = done.stderr.splitlines()
    assert said in line


@pytest.mark.parametrize("said", [["-v"], ["--json", "-v"], []], ids=" ".join)
def test_no_signature_and_no_password_is_ever_told(faults, tmp_path, said):
    signed = faults.url("fine?authz=SECRETSECRET").replace("://", "://me:PASSWORD@")
    refused = faults.url("code/403?X-Amz-Signature=SECRETSECRET")
    done = copy(*said, signed, refused, tmp_path / "there/")
    assert done.returncode == 1
    assert (tmp_path / "there" / "fine").read_bytes() == BODY
    assert "SECRET" not in done.stdout + done.stderr
    assert "PASSWORD" not in done.stdout + done.stderr
    assert "403" in done.stderr


def test_a_token_is_sent_where_the_user_says_and_nothing_of_it_stays(faults, tmp_path):
    (tmp_path / "token").write_text(Issuer().token())
    (tmp_path / "tmp").mkdir()
    copy(faults.url("fine"), tmp_path / "a", cwd=tmp_path)
    assert faults.tokens == []
    done = copy("-v", "--token", "token", faults.url("fine"), "b", cwd=tmp_path, TMPDIR=str(tmp_path / "tmp"))
    assert done.returncode == 0
    assert set(faults.tokens) == {f"Bearer {(tmp_path / 'token').read_text()}"}
    assert (tmp_path / "token").read_text() not in done.stdout + done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []


def test_verbose_tells_of_each_attempt_on_stderr(faults, tmp_path):
    done = copy("-v", faults.url("busy/1/0"), tmp_path / "a")
    assert done.returncode == 0
    assert "a transfer failed" in done.stderr
    assert "a file was moved" in done.stderr
    assert "transfer" not in copy(faults.url("busy/1/0"), tmp_path / "a").stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interruption_leaves_nothing_partial(faults, tmp_path, number):
    (tmp_path / "tmp").mkdir()
    command = [*COPY, faults.url("fine"), faults.url("stall/2000000"), str(tmp_path / "there/")]
    environment = {**clean_environment(), "TMPDIR": str(tmp_path / "tmp")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline().endswith("  fine\n")
        until(lambda: list((tmp_path / "there").glob("2000000.*.part")), what="half a file")
        began = time.monotonic()
        process.send_signal(number)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert time.monotonic() - began < 5
    assert told == "pilot: copy: interrupted after 1 of 2 files, nothing partial is left\n"
    assert content_of(tmp_path / "there") == {"fine": BODY}
    assert list((tmp_path / "tmp").iterdir()) == []


def test_an_interruption_does_not_wait_for_a_storage_that_is_silent(faults, tmp_path):
    command = [*COPY, faults.url("silent/"), str(tmp_path / "there/")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: faults.seen, what="a request")
        process.send_signal(signal.SIGINT)
        out, told = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert told == "pilot: copy: interrupted before anything was copied\n"


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a//x", "a/../x", "..", ".", "a/", "", "./x"])
def test_no_name_that_a_storage_lists_leads_out_of_the_target(tmp_path, name):
    def lister(_url):
        return [Entry(name, 1), Entry("good/x", 1)]

    plan = make_plan([Place.read("https://host/dir/")], Place.read(f"{tmp_path}/there/"), lister)
    assert [item.destination.path for item in plan.items] == [f"{tmp_path}/there/good/x"]
    assert len(plan.failed) == 1


@pytest.mark.parametrize(
    ("source", "target", "path", "found"),
    [
        ("root://h//d/run", "/t/", "a/b", "root://h//d/run/a/b file:///t/run/a/b"),
        ("root://h//d/run/", "/t/", "a/b", "root://h//d/run/a/b file:///t/a/b"),
        ("root://h//d/run", "/t/x", "a/b", "root://h//d/run/a/b file:///t/x/a/b"),
        ("https://h/d%20d/", "/t/x", "a b", "https://h/d%20d/a%20b file:///t/x/a%20b"),
        ("https://h/d/?authz=t", "root://h//", "a%", "https://h/d/a%25?authz=t root://h//a%"),
        ("root://h//50%/", "davs://h/x/", "a", "root://h//50%/a davs://h/x/a"),
    ],
)
def test_where_a_stored_directory_goes(source, target, path, found):
    plan = make_plan([Place.read(source)], Place.read(target), lambda _url: [Entry(path, 1)])
    (item,) = plan.items
    assert f"{item.source} {item.destination}" == found


@pytest.mark.parametrize(
    ("url", "error", "taken"),
    [
        ("root://h//f", Unreachable, True),
        ("root://h//f", FileMissing, False),
        ("root://h//f/", Unreachable, False),
        ("https://h/f", Unreachable, True),
        ("https://h/f", FileMissing, False),
    ],
)
def test_a_storage_that_is_busy_is_tried_again_by_the_copy_itself(url, error, taken):
    def lister(_url):
        raise error("no list")

    plan = make_plan([Place.read(url)], Place.read("/t/"), lister)
    assert [item.destination for item in plan.items] == (["file:///t/f"] if taken else [])
    assert len(plan.failed) == (not taken)


def test_two_files_of_one_name_are_not_written_over_each_other():
    def lister(_url):
        return [Entry("x", 1)]

    with pytest.raises(UsageError, match="would both become"):
        make_plan([Place.read("root://h//a/"), Place.read("root://h//b/")], Place.read("/t/"), lister)


def test_what_is_stored_and_not_looked_at_is_said_so(tmp_path):
    (tmp_path / "a").write_bytes(BODY)
    with PlainStore(Ways(signed=True)) as server:
        (one,) = as_json(tmp_path / "a", server.url("a?signed=PUT"))["files"]
        line = copy(tmp_path / "a", server.url("b?signed=PUT")).stdout.splitlines()[0]
        (back,) = as_json(server.url("a?signed=GET"), tmp_path / "c")["files"]
    assert (one["verified"], one["size"]) == ("answer", len(BODY))
    assert line.endswith("(stored, not looked at)")
    assert (back["verified"], (tmp_path / "c").read_bytes()) == ("checksum", BODY)
    assert server.files == {"/a": BODY, "/b": BODY}


def test_of_several_files_the_one_that_is_there_itself_stays_and_the_others_come(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a").write_bytes(b"the only copy")
    (tmp_path / "b").write_bytes(b"another")
    (tmp_path / "link").symlink_to("there")
    done = copy("--overwrite", "link/a", "b", f"file://{tmp_path}/there/", cwd=tmp_path)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "are the same file" in line
    assert content_of(tmp_path / "there") == {"a": b"the only copy", "b": b"another"}


@pytest.mark.parametrize("how", [[], ["--third-party", "pull"]], ids=["through us", "third-party"])
def test_a_stored_file_is_not_copied_over_itself(store, tmp_path, how):
    path = store.put(f"{tmp_path.name}/x", BODY)
    here = f"{tmp_path.name}/x"
    for source, target in [
        (store.http(here), store.http(f"/{here}").replace("http:", "dav:")),
        (store.root(here), store.root(f"./{here}")),
        (store.http(here), store.http(here.replace("x", "%78")).replace("127.0.0.1", "localhost")),
    ]:
        done = copy("--overwrite", *how, source, target)
        assert done.returncode == 1
        assert "are the same file" in done.stderr
    done = copy("--overwrite", *how, store.http(here), store.http(here).rpartition("/")[0] + "/")
    assert (done.returncode, path.read_bytes()) == (1, BODY)


def test_a_tree_with_names_of_temporary_files_comes_whole(tmp_path):
    for name in ("a", "a.part", "b.part", "b"):
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text(name)
    for options in ([], ["--overwrite"]):
        assert copy(*options, f"{tmp_path}/run/", tmp_path / "there").returncode == 0
        assert content_of(tmp_path / "there") == content_of(tmp_path / "run")


def test_a_directory_that_replaces_another_at_a_storage_leaves_no_other_names(store, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("a", "b"):
        store.put(f"{tmp_path.name}/run/{name}", b"old")
        (tmp_path / "run" / name).write_bytes(BODY)
    for url in (store.root(f"{tmp_path.name}/run"), store.http(f"{tmp_path.name}/run")):
        assert copy("--overwrite", f"{tmp_path}/run/", url).returncode == 0
        assert content_of(store.data / tmp_path.name / "run") == {"a": BODY, "b": BODY}


def test_an_output_is_not_sent_on_to_another_origin_unless_the_settings_say_so(faults, tmp_path):
    (tmp_path / "a").write_bytes(BODY)
    with PlainStore() as pool:
        door = faults.away(pool.url("a"))
        done = copy(tmp_path / "a", door)
        assert (done.returncode, pool.files) == (1, {})
        assert "another origin" in done.stderr
        assert "output_redirects" in done.stderr
        assert copy(tmp_path / "a", door, PILOT_OUTPUT_REDIRECTS="127.0.0.1").returncode == 0
        assert pool.files == {"/a": BODY}
