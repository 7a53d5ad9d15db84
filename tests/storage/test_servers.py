"""Files go to real servers and come back whole; what cannot be moved is told in the right word."""

from __future__ import annotations

import hashlib
import os
import random
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from pilot.staging.lanes.lanes import Lanes
from pilot.staging.order import partial_path
from pilot.staging.transfer import Moved, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import Denied, Exists, FileMissing, Md5Mismatch, Mismatch, StageError, Stalled, Unreachable
from pilot.values.names import Checksum, Url
from pilot.values.stop import Stop

CONTENT = random.Random(7).randbytes(5_000_001)
SCHEMES = ["root", "roots", "https", "davs", "http"]

Download = Callable[..., Transfer]
Upload = Callable[..., Transfer]


@pytest.fixture
def move(lanes: Lanes, stop: Stop) -> Callable[[Transfer], Moved]:
    return lambda transfer: lanes.move(transfer, Deadline.after(60), stop)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """The work directory, which no test leaves with a partial file in it."""
    yield tmp_path / "work"
    assert not list(tmp_path.rglob("*.part"))


def adler32(content: bytes) -> str:
    return f"{zlib.adler32(content):08x}"


def flip(checksum: Checksum | None) -> Checksum:
    assert checksum is not None
    return Checksum(checksum.kind, f"{int(checksum.value, 16) ^ 1:0{len(checksum.value)}x}")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("content", [CONTENT, b""], ids=["some", "empty"])
def test_a_file_comes_from_each_kind_of_server(scheme, content, xrootd, download, move, work):
    xrootd.put(f"{scheme}/in", content)

    moved = move(download(getattr(xrootd, scheme)(f"{scheme}/in"), content))

    assert (work / "in.dat").read_bytes() == content
    assert (moved.size, moved.checksum) == (len(content), Checksum("adler32", adler32(content)))
    assert (work / "in.dat").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("content", [CONTENT, b""], ids=["some", "empty"])
def test_a_file_goes_to_each_kind_of_server_and_parents_are_made(scheme, content, xrootd, upload, move, work):
    path = f"up-{scheme}/{len(content)}/a/b/out"

    moved = move(upload(getattr(xrootd, scheme)(path), content))

    assert (xrootd.data / path).read_bytes() == content
    assert moved.checksum.value == xrootd.adler32(path) == adler32(content)
    assert moved.size == len(content)


@pytest.mark.parametrize("scheme", [*SCHEMES, "file"])
def test_another_file_is_never_overwritten_unless_that_is_asked_for(scheme, xrootd, upload, move, tmp_path, work):
    old = xrootd.put(f"again-{scheme}/out", b"longer than the new content")
    transfer = upload(f"file://{old}" if scheme == "file" else getattr(xrootd, scheme)(f"again-{scheme}/out"), b"new")

    with pytest.raises(Exists, match=r"another file is there already \(27 bytes, adler32 \w+; ours: 3 bytes") as caught:
        move(transfer)
    assert caught.value.code == 1221
    assert old.read_bytes() == b"longer than the new content"

    move(replace(transfer, overwrite=True))
    assert old.read_bytes() == b"new"


@pytest.mark.parametrize("scheme", [*SCHEMES, "file"])
def test_a_target_that_has_the_very_bytes_will_do(scheme, xrootd, upload, move, tmp_path, work):
    old = xrootd.put(f"same-{scheme}/out", CONTENT)
    before = old.stat()

    moved = move(
        upload(f"file://{old}" if scheme == "file" else getattr(xrootd, scheme)(f"same-{scheme}/out"), CONTENT)
    )

    assert (moved.size, moved.checksum.value) == (len(CONTENT), adler32(CONTENT))
    assert (old.stat().st_mtime_ns, old.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_an_input_that_is_there_already_is_compared_too(xrootd, download, move, tmp_path, work):
    xrootd.put("there", CONTENT)
    work.mkdir()
    (work / "in.dat").write_bytes(CONTENT)

    assert move(download(xrootd.root("there"), CONTENT)).size == len(CONTENT)
    (work / "in.dat").write_bytes(b"mine")
    with pytest.raises(Exists):
        move(download(xrootd.root("there"), CONTENT))

    assert (work / "in.dat").read_bytes() == b"mine"


@pytest.mark.parametrize("scheme", ["root", "https"])
def test_without_a_catalogue_the_server_is_asked_for_the_checksum(scheme, xrootd, download, move, work):
    xrootd.put(f"uncatalogued/{scheme}", CONTENT)

    moved = move(download(getattr(xrootd, scheme)(f"uncatalogued/{scheme}")))

    assert moved.checksum.value == adler32(CONTENT)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_missing_file_is_told_as_missing_in_seconds(scheme, xrootd, download, move, work):
    began = time.monotonic()

    with pytest.raises(FileMissing, match=r"in\.dat: .*nowhere") as caught:
        move(download(getattr(xrootd, scheme)("nowhere")))

    assert caught.value.code == 1331
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_file_that_may_not_be_read_is_told_as_denied(scheme, xrootd, download, move, work):
    xrootd.put(f"closed/{scheme}", b"secret").chmod(0)

    with pytest.raises(Denied) as caught:
        move(download(getattr(xrootd, scheme)(f"closed/{scheme}")))

    assert caught.value.code == 1338


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_directory_that_may_not_be_written_is_told_as_denied(scheme, xrootd, upload, move, work):
    folder = xrootd.put(f"readonly-{scheme}/other", b"").parent
    folder.chmod(0o555)

    with pytest.raises(Denied) as caught:
        move(upload(getattr(xrootd, scheme)(f"readonly-{scheme}/out"), b"content"))

    assert caught.value.code == 1383


@pytest.mark.parametrize("scheme", ["root", "https", "file"])
def test_one_flipped_bit_leaves_no_file(scheme, xrootd, download, move, work):
    stored = xrootd.put(f"flipped/{scheme}", CONTENT)
    source = f"file://{stored}" if scheme == "file" else getattr(xrootd, scheme)(f"flipped/{scheme}")
    transfer = download(source, CONTENT)

    with pytest.raises(Mismatch, match=f"adler32 is {adler32(CONTENT)}, the catalogue says"):
        move(replace(transfer, checksum=flip(transfer.checksum)))

    assert list(work.iterdir()) == []


@pytest.mark.parametrize("scheme", ["root", "https", "file"])
def test_another_size_than_the_catalogues_is_a_mismatch(scheme, xrootd, download, move, work):
    stored = xrootd.put(f"sized/{scheme}", CONTENT)
    source = f"file://{stored}" if scheme == "file" else getattr(xrootd, scheme)(f"sized/{scheme}")

    with pytest.raises(Mismatch, match=f"has {len(CONTENT)} bytes, the catalogue says 5"):
        move(replace(download(source), size=5))

    assert not work.exists() or list(work.iterdir()) == []


@pytest.mark.parametrize("scheme", ["root", "http", "file"])
def test_an_md5_sum_of_the_catalogue_is_compared(scheme, xrootd, download, move, work):
    stored = xrootd.put(f"md5/{scheme}", CONTENT)
    source = f"file://{stored}" if scheme == "file" else getattr(xrootd, scheme)(f"md5/{scheme}")
    right = Checksum("md5", hashlib.md5(CONTENT).hexdigest())

    assert move(replace(download(source), checksum=right)).checksum.value == adler32(CONTENT)
    (work / "in.dat").unlink()
    with pytest.raises(Md5Mismatch) as caught:
        move(replace(download(source), checksum=flip(right)))

    assert caught.value.code == 1145


def test_an_output_that_is_not_what_was_promised_is_not_left_at_the_server(xrootd, upload, move, work):
    transfer = upload(xrootd.root("promised"), CONTENT)

    with pytest.raises(Mismatch) as caught:
        move(replace(transfer, checksum=Checksum("adler32", "00000001")))

    assert caught.value.direction == "out"
    assert not (xrootd.data / "promised").exists()


@pytest.mark.parametrize("scheme", ["root", "http"])
def test_a_refused_connection_is_told_after_three_tries_in_seconds(scheme, download, move, work):
    began = time.monotonic()

    with pytest.raises(Unreachable):
        move(download(f"{scheme}://127.0.0.1:9//file"))

    assert time.monotonic() - began < 20


@pytest.mark.parametrize("scheme", ["https", "roots"])
def test_a_certificate_of_another_authority_is_told_once(scheme, xrootd, download, open_lanes, stop, tmp_path, work):
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    xrootd.put("trusted", b"content")

    with pytest.raises(StageError, match="certificate is not accepted"):
        open_lanes(ca_path=str(other)).move(download(getattr(xrootd, scheme)("trusted")), Deadline.after(30), stop)


def test_a_root_server_that_freezes_in_the_middle_is_given_up(xrootd, download, open_lanes, stop, work):
    with (xrootd.put("big", b"")).open("r+b") as file:
        file.truncate(4 << 30)
    frozen = []

    def freeze(_moved: int) -> None:
        if not frozen:
            os.kill(xrootd.pid, 19)
            frozen.append(True)

    try:
        with pytest.raises(Stalled):
            open_lanes(idle_s=1.5).move(download(xrootd.root("big")), Deadline.after(3), stop, freeze)
    finally:
        os.kill(xrootd.pid, 18)
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("mode", [0o644, 0o444])
def test_an_input_on_a_shared_disk_is_linked_only_if_the_payload_cannot_change_it(download, move, tmp_path, work, mode):
    stored = tmp_path / "stored"
    stored.write_bytes(CONTENT)
    stored.chmod(mode)

    move(download(f"file://{tmp_path}/stored", CONTENT))

    assert (work / "in.dat").read_bytes() == CONTENT
    assert (work / "in.dat").samefile(stored) is not os.access(stored, os.W_OK)


def test_an_input_on_another_device_is_copied(download, move, tmp_path, work):
    other = Path("/dev/shm") / f"pilot-test-{os.getpid()}"
    if not other.parent.is_dir() or other.parent.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    other.write_bytes(CONTENT)
    try:
        move(download(f"file://{other}", CONTENT))
    finally:
        other.unlink()

    assert (work / "in.dat").read_bytes() == CONTENT


def test_an_output_on_a_shared_disk_is_a_copy_of_its_own(upload, move, tmp_path, work):
    moved = move(upload(f"file://{tmp_path}/storage/a/out", CONTENT))
    with (tmp_path / "out.dat").open("r+b") as file:
        file.write(b"changed by the payload")

    assert (tmp_path / "storage/a/out").read_bytes() == CONTENT
    assert moved.checksum.value == adler32(CONTENT)


@pytest.mark.parametrize("scheme", ["file", "root", "http"])
def test_a_link_in_place_of_an_output_is_not_followed(scheme, xrootd, move, upload, tmp_path, work):
    target = f"file://{tmp_path}/stored" if scheme == "file" else getattr(xrootd, scheme)("linked")
    transfer = upload(target, b"")
    (tmp_path / "out.dat").unlink()
    (tmp_path / "out.dat").symlink_to("/etc/passwd")

    with pytest.raises(StageError, match="symbolic link"):
        move(transfer)

    assert not (tmp_path / "stored").exists()


def test_a_pipe_in_place_of_an_output_does_not_block(move, upload, tmp_path, work):
    transfer = upload(f"file://{tmp_path}/stored", b"")
    (tmp_path / "out.dat").unlink()
    os.mkfifo(tmp_path / "out.dat")

    with pytest.raises(StageError, match="not a regular file"):
        move(transfer)


def test_a_stale_partial_file_is_no_obstacle_and_is_not_followed(xrootd, download, move, tmp_path, work):
    xrootd.put("stale", CONTENT)
    work.mkdir()
    (tmp_path / "victim").write_bytes(b"untouched")
    Path(partial_path(xrootd.http("stale"), f"{work}/in.dat")).symlink_to(tmp_path / "victim")

    move(download(xrootd.http("stale"), CONTENT))

    assert (tmp_path / "victim").read_bytes() == b"untouched"
    assert (work / "in.dat").read_bytes() == CONTENT


def test_a_name_with_special_characters_survives(xrootd, upload, move, work):
    name = "sp+ec=ial@na:me"

    for scheme in ("root", "https"):
        move(upload(getattr(xrootd, scheme)(f"names/{scheme}/{name}"), b"content"))

        assert (xrootd.data / f"names/{scheme}/{name}").read_bytes() == b"content"


def test_the_longest_name_fits(xrootd, download, move, tmp_path, work):
    xrootd.put("long", b"content")

    move(download(xrootd.root("long"), b"content", f"work/{'n' * 255}"))

    assert (work / ("n" * 255)).read_bytes() == b"content"


@pytest.mark.parametrize(
    ("source", "target"), [("root", "https"), ("https", "root"), ("root", "root"), ("http", "davs")]
)
def test_a_file_can_stream_from_server_to_server(source, target, xrootd, download, move, tmp_path, work):
    xrootd.put(f"streamed/{source}-{target}", CONTENT)
    path = f"arrived/{source}-{target}"
    transfer = Transfer.plain(
        "f",
        "out",
        Url(getattr(xrootd, source)(f"streamed/{source}-{target}")),
        Url(getattr(xrootd, target)(path)),
        len(CONTENT),
        Checksum("adler32", adler32(CONTENT)),
    )

    assert move(transfer).checksum.value == adler32(CONTENT)
    assert (xrootd.data / path).read_bytes() == CONTENT
    (xrootd.data / path).unlink()
    with pytest.raises(Mismatch):
        move(replace(transfer, checksum=flip(transfer.checksum)))
    assert not (xrootd.data / path).exists()
