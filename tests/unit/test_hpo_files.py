"""What an evaluation leaves: its answer, its intermediate losses, its checkpoint."""

import json
import math
import os
import re
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.files.folder import Folder
from pilot.runner.hpo import snapshot
from pilot.runner.hpo.progress import Progress
from pilot.runner.hpo.verdict import Kind, Verdict, judge, left_behind
from pilot.values.deadline import Deadline
from pilot.values.hpo import PointWork, finite
from pilot.values.names import Lfn
from pilot.values.outcome import PayloadEnd
from pilot.values.usage import Memory

WORK = PointWork(1, "true", Lfn("input.json"), Lfn("output.json"), Lfn("meta.json"))


def verdict_on(folder: Path, answer: str | None, code: int = 0, stderr: str = "", **end: object) -> Verdict:
    if answer is not None:
        (folder / "output.json").write_text(answer)
    with Folder.at(folder) as top, closing(top.create("stderr")) as file:
        file.append(stderr.encode())
        return judge(lambda: Folder.at(folder), WORK, PayloadEnd(code, **end), file)


@pytest.mark.parametrize(
    ("answer", "loss"),
    [
        ('{"status": 0, "loss": 0.5}', 0.5),
        ('{"loss": 0.0}', 0.0),
        ('{"loss": 0}', 0.0),
        ('{"status": 0, "loss": "0.25"}', 0.25),
        ('{"status": "0", "loss": -1e-7, "message": "good"}', -1e-7),
    ],
)
@pytest.mark.parametrize("code", [0, 1, -9])
def test_a_valid_answer_counts_whatever_the_exit_status(tmp_path: Path, answer: str, loss: float, code: int):
    assert verdict_on(tmp_path, answer, code) == Verdict(Kind.MEASURED, loss)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "left no output.json"),
        ("", "not JSON"),
        ('{"status": 0, "lo', "not JSON"),
        ("[1]", "no object"),
        ('{"status": 0}', "missing"),
        ('{"loss": NaN}', "nan"),
        ('{"loss": Infinity}', "inf"),
        ('{"loss": null}', "None"),
        ('{"loss": true}', "True"),
        ('{"loss": "small"}', "small"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_loss_is_a_failure_that_says_why(tmp_path: Path, answer: str | None, words: str):
    found = verdict_on(tmp_path, answer, 3, "Traceback\nValueError: bad\n")
    assert found.kind is Kind.FAILED
    assert words in found.why
    assert "exited with 3" in found.why
    assert "ValueError: bad" in found.why


def test_an_evaluation_may_refuse_its_point(tmp_path: Path):
    found = verdict_on(tmp_path, '{"status": 2, "message": "diverged at step 40", "loss": 1}')
    assert (found.kind, found.fatal) == (Kind.REFUSED, False)
    assert "status 2: diverged at step 40" in found.why
    assert verdict_on(tmp_path, '{"status": 1, "message": "fatal: no such optimizer"}').fatal


@pytest.mark.parametrize(
    ("code", "stderr", "end"),
    [
        (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", {}),
        (1, "jaxlib.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate", {}),
        (-9, "", {"memory": Memory(100, 100, oom_kills=1)}),
        (137, "", {"memory": Memory(100, 100, oom_kills=1)}),
    ],
)
def test_out_of_memory_is_told_from_other_failures(tmp_path: Path, code: int, stderr: str, end: dict[str, object]):
    assert verdict_on(tmp_path, None, code, stderr, **end).kind is Kind.MEMORY


def test_a_kill_without_the_kernels_count_is_no_lack_of_memory(tmp_path: Path):
    assert verdict_on(tmp_path, None, -9, "").kind is Kind.FAILED


def test_a_complete_answer_that_nobody_has_seen_counts(tmp_path: Path):
    assert left_behind(tmp_path, "output.json") is None
    for text, loss in (('{"loss": 0.1', None), ('{"loss": 0.1}', 0.1), ('{"status": 1, "loss": 0.1}', None)):
        (tmp_path / "output.json").write_text(text)
        assert left_behind(tmp_path, "output.json") == loss


@given(st.one_of(st.floats(), st.integers(), st.text(), st.booleans(), st.none(), st.lists(st.integers())))
def test_a_loss_is_finite_or_none(value: object):
    number = finite(value)
    assert number is None or math.isfinite(number)


# --- intermediate losses ----------------------------------------------------------------------------


def test_intermediate_losses_are_read_line_by_line(tmp_path: Path):
    progress = Progress(tmp_path, tmp_path / "stdout")
    assert progress.news() == []
    file = tmp_path / "progress.jsonl"
    file.write_text('{"step": 1, "loss": 0.7, "timestamp": 1763829600.2}\n{"step": 2, "lo')
    assert [(one.step, one.loss) for one in progress.news()] == [(1, 0.7)]
    with file.open("a") as stream:
        stream.write(
            'ss": "0.4"}\nnot json\n{"step": true, "loss": 1}\n{"step": 3, "loss": NaN}\n{"step": 4, "loss": 0}\n'
        )
    assert [(one.step, one.loss) for one in progress.news()] == [(2, 0.4), (4, 0.0)]
    assert progress.news() == []
    assert progress.last is not None
    assert progress.last.step == 4


def test_intermediate_losses_can_be_found_in_the_output(tmp_path: Path):
    stdout = tmp_path / "stdout"
    progress = Progress(tmp_path, stdout, re.compile(r"epoch (?P<step>\d+).*loss=(?P<loss>\S+)"))
    stdout.write_text("start\nepoch 1 acc=0.5 loss=0.9\nepoch 2 loss=oops\nepoch 7 loss=0.3\n")
    assert [(one.step, one.loss) for one in progress.news()] == [(1, 0.9), (7, 0.3)]


def test_steps_are_counted_where_the_pattern_names_none(tmp_path: Path):
    stdout = tmp_path / "stdout"
    progress = Progress(tmp_path, stdout, re.compile(r"loss: (\S+)"))
    stdout.write_text("loss: 3\nloss: 2\n")
    assert [(one.step, one.loss) for one in progress.news()] == [(1, 3.0), (2, 2.0)]
    stdout.write_text("loss: 3\nloss: 2\nloss: 1\n")
    assert [(one.step, one.loss) for one in progress.news()] == [(3, 1.0)]


# --- checkpoints --------------------------------------------------------------------------------------


def packed(work: Path, paths: tuple[str, ...], target: Path, most: int = 1 << 20) -> str | None:
    return snapshot.pack(lambda: Folder.at(work), paths, target, most, Deadline.never())


def test_a_snapshot_holds_what_was_listed_and_comes_back(tmp_path: Path):
    work, back, tar = tmp_path / "work", tmp_path / "back", tmp_path / "1_7"
    (work / "ckpt/deep").mkdir(parents=True)
    back.mkdir()
    (work / "ckpt/deep/a.bin").write_bytes(b"a" * 1000)
    (work / "step").write_text("40")
    (work / "secret").symlink_to("/etc/passwd")
    digest = packed(work, ("ckpt", "step", "secret", "missing"), tar)
    assert digest is not None
    with tarfile.open(tar) as archive:
        assert sorted(archive.getnames()) == ["ckpt/deep/a.bin", "step"]
    snapshot.unpack(tar, back, "")
    assert (back / "ckpt/deep/a.bin").read_bytes() == b"a" * 1000
    assert (back / "step").read_text() == "40"
    snapshot.unpack(tar, back, "whole.tgz")
    assert tarfile.is_tarfile(back / "whole.tgz")


def test_the_digest_tells_whether_anything_is_new(tmp_path: Path):
    work = tmp_path / "work"
    work.mkdir()
    (work / "step").write_text("40")
    first = packed(work, ("step",), tmp_path / "a")
    (work / "step").write_text("40")
    assert packed(work, ("step",), tmp_path / "b") == first
    (work / "step").write_text("41")
    assert packed(work, ("step",), tmp_path / "c") != first


def test_what_is_too_large_or_missing_is_not_saved(tmp_path: Path):
    work = tmp_path / "work"
    work.mkdir()
    assert packed(work, ("step",), tmp_path / "a") is None
    (work / "step").write_bytes(bytes(range(256)) * 400)
    assert packed(work, ("step",), tmp_path / "a", most=100) is None
    assert not (tmp_path / "a").exists()


def test_a_checkpoint_cannot_write_beside_the_evaluation(tmp_path: Path):
    tar, work = tmp_path / "bad.tgz", tmp_path / "work"
    work.mkdir()
    (tmp_path / "x").write_text("x")
    with tarfile.open(tar, "w:gz") as archive:
        archive.add(tmp_path / "x", arcname="../escaped")
    with pytest.raises(OSError, match="cannot be unpacked"):
        snapshot.unpack(tar, work, "")
    assert not (tmp_path / "escaped").exists()


@pytest.mark.timeout(10)
def test_a_pipe_where_an_answer_should_be_makes_nobody_wait(tmp_path: Path):
    for name in ("output.json", "meta.json", "progress.jsonl"):
        os.mkfifo(tmp_path / name)
    assert "output.json is a FIFO" in verdict_on(tmp_path, None).why
    assert Progress(tmp_path, tmp_path / "stdout").news() == []


def test_meta_goes_into_the_verdict(tmp_path: Path):
    (tmp_path / "meta.json").write_text(json.dumps({"best_epoch": 12}))
    assert verdict_on(tmp_path, '{"loss": 1}').meta == {"best_epoch": 12}
    (tmp_path / "meta.json").write_text("[1]")
    assert verdict_on(tmp_path, '{"loss": 1}').meta == {}
