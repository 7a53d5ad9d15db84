"""What payloads, servers and storages say reaches no terminal, log or page as anything but plain text."""

import http.server
import json
import logging
import os
import pty
import select
import subprocess
import sys
import threading
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.agent.local.board import study_lines
from pilot.agent.local.page import page
from pilot.agent.local.view import describe, story
from pilot.agent.saying import say, say_json
from pilot.values.events import JsonFormatter, TextFormatter
from pilot.values.printable import block, line, lines
from pilot.values.redaction import Redactor
from tests.lab import clean_environment

CLIPBOARD, RESET, BACKWARDS, HIDDEN = "\x1b]52;c;cm0gLXJmIC8=\x07", "\x1bc", "\u202egpj.exe", "a\u200bb\x9b2J\x7f"
HOSTILE = f"begin{CLIPBOARD}{RESET}{BACKWARDS}{HIDDEN}[red]:bomb:<b>&\rover\nforged  INFO    all is well\udcff"
"""Sets the clipboard, resets the terminal, turns the writing round, hides, and begins a line of its own."""


def harmless(text):
    """Whether nothing in it does more than stand there, colours of our own tables excepted."""
    return not [char for char in text if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


@given(st.text())
def test_any_text_is_shown_in_printable_characters(text):
    assert line(text).isprintable()
    assert "".join(block(text).split()).isprintable()
    assert harmless(line(text))
    assert block(text).count("\n") == text.replace("\r\n", "\n").replace("\r", "\n").count("\n")


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_plain_text_stays_as_it_is(text):
    assert line(text) == block(text) == text
    assert block(f"{text}\n\t{text}\n") == f"{text}\n\t{text}\n"


def rendered(formatter, **keys):
    record = logging.LogRecord("pilot.test", logging.INFO, "f", 1, f"event {HOSTILE}", (), None)
    record.keys = keys
    record.exc_info = (RuntimeError, RuntimeError(HOSTILE), None)
    return formatter(Redactor()).format(record)


def test_an_event_of_the_text_log_is_one_line_and_its_traceback_looks_like_no_event():
    first, *rest = rendered(TextFormatter, file=HOSTILE, odd={HOSTILE: [HOSTILE]}).split("\n")
    assert harmless(first)
    assert "forged" in first
    assert rest
    assert all(one.startswith("  | ") and harmless(one[4:]) for one in rest)


def test_an_event_of_the_json_log_holds_nothing_either_when_it_is_read():
    text = rendered(JsonFormatter, file=HOSTILE, odd={HOSTILE: [HOSTILE]})
    assert harmless(text)
    event = json.loads(text)
    assert harmless(event["event"] + event["file"] + "".join(event["odd"]) + event["odd"][line(HOSTILE)][0])
    assert harmless(event["traceback"].replace("\n", ""))


@pytest.fixture
def liar():
    """A server that says what it likes, as JSON."""

    class Liar(http.server.BaseHTTPRequestHandler):
        answers = (200, {})

        def do_GET(self):
            status, value = self.answers
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.says = lambda status, value: setattr(Liar, "answers", (status, value))
    server.url = f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def pilot(*arguments, **more):
    command = [sys.executable, "-m", "pilot", *map(str, arguments)]
    return subprocess.run(
        command, env=clean_environment(), capture_output=True, check=False, encoding="utf-8", timeout=120, **more
    )


JOB = {
    "id": HOSTILE, "state": "failed", "pilot_error_diag": HOSTILE, "pilot_error_code": HOSTILE, "exit_code": HOSTILE,
    "outputs": [{"name": HOSTILE, "size": 1, "adler32": HOSTILE, "url": HOSTILE}], "seconds": {HOSTILE: 1.0},
    "history": [], "log": None,
}  # fmt: skip


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_status_shows_what_a_server_says_and_does_nothing_of_it(liar, options):
    liar.says(200, JOB)
    done = pilot("status", "1", "--server", liar.url, *options)
    assert done.returncode == 0
    assert "begin" in done.stdout
    assert harmless(done.stdout.replace("\n", ""))


def test_an_error_of_a_server_is_one_plain_line(liar):
    liar.says(400, {"error": HOSTILE})
    done = pilot("status", "1", "--server", liar.url)
    assert done.stderr.count("\n") == 1
    assert harmless(done.stderr.rstrip("\n"))
    assert "[red]" in done.stderr


def test_the_table_of_a_job_has_one_line_for_each_thing():
    assert [one for one in describe(JOB).split("\n") if one.startswith("forged")] == []
    for event in ("job acquired", "stage-in", "final delivered", "anything else"):
        said = story({"event": event, "level": "error", "job": HOSTILE, "file": HOSTILE, "checksum": HOSTILE})
        assert harmless(said)
        assert harmless(story({"event": HOSTILE, "level": "error"}))


STUDY = {
    "name": HOSTILE, "task": 1, "state": "failed", "why": HOSTILE, "jobs": [1], "generation": 1, "max_points": 1,
    "points_per_iteration": 0, "lives": [], "seconds": 1.0, "evaluations": [], "study": {},
    "points": [{"id": "1", "state": "evaluated", "loss": 0.5, "parameters": {HOSTILE: HOSTILE}, "progress": [],
                "began": 1.0, "ended": 2.0}],
}  # fmt: skip


def test_the_lines_of_a_study_hold_nothing_but_text():
    assert all(harmless(one) for one in study_lines(STUDY))


def test_the_page_of_a_study_is_escaped_and_plain(monkeypatch):
    monkeypatch.setitem(sys.modules, "pilot.agent.local.plots", None)  # the plots are Plotly's own
    best = {"id": "1", "loss": 0.5, "parameters": {HOSTILE: HOSTILE}}
    text = page({**STUDY, "best": best, "evaluated": 1, "pruned": 0, "failed": 0})
    assert "<b>&\r" not in text
    assert "&lt;b&gt;&amp;" in text
    assert harmless(text.replace("\n", ""))


def test_a_value_is_made_plain_through_and_through():
    assert lines({"a\n": ["\x1b", {"b": ("\t", 1, None)}]}) == {"a ": ["?", {"b": [" ", 1, None]}]}


def test_whatever_is_said_is_plain_lines_and_objects_are_plain_ascii(capsys):
    say(HOSTILE)
    say_json({HOSTILE: HOSTILE})
    said = capsys.readouterr().out
    assert harmless(said.replace("\n", ""))
    assert json.loads(said[said.index("{") :]) == {HOSTILE: HOSTILE}


def on_terminal(*arguments, folder):
    """What a command writes on a terminal, all of it."""
    ours, theirs = pty.openpty()
    environment = {**clean_environment(), "TERM": "xterm-256color", "COLUMNS": "200"}
    command = [sys.executable, "-m", "pilot", *map(str, arguments)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, cwd=folder) as process:
        os.close(theirs)
        said = b""
        try:
            while select.select([ours], [], [], 120)[0]:
                said += os.read(ours, 1 << 16)
        except OSError:  # so a terminal ends
            pass
        finally:
            process.kill()
            os.close(ours)
    return said.decode("utf-8", "replace")


def nothing_is_done(said):
    return not [one for one in (CLIPBOARD, "\x1b]52", RESET, "\u202e", "\u200b", "\x9b", "\x07") if one in said]


def test_try_shows_the_last_words_of_a_payload_and_does_nothing_of_them(tmp_path):
    words = tmp_path / "words"
    words.write_text(HOSTILE, "utf-8", "surrogateescape")
    (tmp_path / "job.yaml").write_text(f"name: x\ncommand: cat {words} >&2; exit 3\n")
    said = on_terminal("try", tmp_path / "job.yaml", folder=tmp_path)
    assert "all is well" in said
    assert "[red]:bomb:" in said, "neither markup nor emoji is read out of it"
    assert nothing_is_done(said)
    lines_of_it = pilot("try", tmp_path / "job.yaml", cwd=tmp_path).stdout
    assert harmless(lines_of_it.replace("\n", ""))


def test_copy_shows_the_name_of_a_file_and_does_nothing_of_it(tmp_path):
    name = HOSTILE.replace("/", "").replace("\udcff", "")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_text("x")
    (tmp_path / "out").mkdir()
    said = on_terminal("copy", tmp_path / "in", tmp_path / "out", folder=tmp_path)
    assert "[red]:bomb:" in said
    assert nothing_is_done(said)
