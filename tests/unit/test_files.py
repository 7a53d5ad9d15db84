"""Directory trees and files as hostile payloads leave them: `pilot.files` walks, removes and opens them."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pilot.files import trees
from pilot.files.folder import Folder
from pilot.files.opening import NotRegular, folder_of, open_file, read_file, replace_file
from pilot.values.deadline import Deadline

LONG = Deadline.never()


def chain(top, depth, name="d"):
    """A directory tree this deep below ``top``, made without long paths."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("last", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


@pytest.fixture
def top(tmp_path):
    with Folder.at(tmp_path) as folder:
        yield folder


@pytest.mark.parametrize("name", ["d", "x" * 200])
def test_a_tree_3000_deep_is_walked_and_removed(top, name):
    (top.path / "tree").mkdir()
    chain(top.path / "tree", 3000, name)
    with top.below("tree") as tree:
        walk = tree.walk(LONG)
        found = [one.name for one in walk]
    assert len(found) == 3001
    assert found[-1] == "last"
    assert walk.stopped == ""
    assert top.remove("tree", LONG) == ""
    assert not list(top.path.iterdir())


def test_a_tree_of_many_entries_and_odd_names_is_removed(top):
    tree = top.path / "tree"
    for number in range(30):
        folder = tree / f"f{number}"
        folder.mkdir(parents=True)
        for one in range(50):
            (folder / f"{one}").touch()
    os.mkfifo(tree / "fifo")
    (tree / "link").symlink_to("/")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tree / "socket"))
    os.close(os.open(os.fsencode(tree) + b"/not-utf8-\xff\xfe", os.O_CREAT | os.O_WRONLY))
    (tree / "new\nline").mkdir()
    assert top.remove("tree", LONG) == ""
    assert not list(top.path.iterdir())


def test_more_directories_than_are_known_at_a_time_are_removed(top):
    for number in range(40):
        (top.path / "tree" / str(number) / "below").mkdir(parents=True)
    assert trees.remove("tree", LONG, at=top.fd, at_once=7) == ""
    assert not list(top.path.iterdir())


_READ_ONLY = """
import os, sys
from pathlib import Path
from pilot.files.folder import Folder
from pilot.values.deadline import Deadline
top = Path(sys.argv[1])
if os.getuid() == 0:
    os.setgroups([]); os.setgid(5001); os.setuid(5001)
(top / "tree/a/b").mkdir(parents=True)
(top / "tree/a/b/file").touch()
for mode, folder in ((0o555, "tree/a/b"), (0o000, "tree/a"), (0o555, "tree")):
    (top / folder).chmod(mode)
with Folder.at(top) as folder:
    print(folder.remove("tree", Deadline.after(60)) or "gone", os.listdir(folder.fd))
"""


def test_a_read_only_tree_is_removed_without_root():
    with tempfile.TemporaryDirectory(dir="/tmp") as top:  # another user does not get into pytest's directories
        Path(top).chmod(0o777)
        command = [sys.executable, "-c", _READ_ONLY, top]
        assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "gone []\n"


def test_removing_ends_at_its_limit_and_says_so(top):
    (top.path / "tree/below").mkdir(parents=True)
    assert "time" in top.remove("tree", Deadline.after(0))


def test_a_walk_is_bounded_in_entries(top):
    for number in range(10):
        (top.path / str(number)).mkdir()
    walk = top.walk(LONG, 4)
    assert len(list(walk)) == 4
    assert walk.stopped == "too many entries"


def test_a_walk_follows_no_link_and_removing_neither(top, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "precious").touch()
    (top.path / "tree").mkdir()
    (top.path / "tree/link").symlink_to(outside)
    assert [one.path for one in top.walk(LONG)] == ["tree", "tree/link"]
    assert top.remove("tree", LONG) == ""
    (top.path / "alias").symlink_to(outside)
    assert top.remove("alias", LONG) == ""
    assert (outside / "precious").exists()


def test_a_walk_whose_directory_is_moved_away_meanwhile_ends_and_says_so(top):
    (top.path / "a/b").mkdir(parents=True)
    (top.path / "elsewhere").mkdir()
    with top.below("a") as folder:
        walk = folder.walk(LONG)
        (top.path / "a/b/c").mkdir()
        seen = []
        for found in walk:
            seen.append(found.path)
            if found.path == "b/c":
                (top.path / "a/b").rename(top.path / "elsewhere/b")
    assert seen == ["b", "b/c"]
    assert walk.stopped == "it was changed meanwhile"


def _fifo(path):
    os.mkfifo(path)


def _link(path):
    path.with_name("secret").write_text("secret")
    path.symlink_to(path.with_name("secret"))


def _hard_link(path):
    path.with_name("secret").write_text("secret")
    os.link(path.with_name("secret"), path)


def _folder(path):
    path.mkdir()


def _socket(path):
    one = socket.socket(socket.AF_UNIX)
    one.bind(str(path))
    one.close()


ODD = {
    "a FIFO": _fifo,
    "a symbolic link": _link,
    "a hard link: it has another name elsewhere": _hard_link,
    "a directory": _folder,
    "a socket": _socket,
}


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND | os.O_CREAT])
@pytest.mark.parametrize("what", ODD)
def test_what_is_no_regular_file_of_one_name_is_refused_at_once_and_named(top, what, flags):
    ODD[what](top.path / "file")
    with pytest.raises(NotRegular) as caught:
        os.close(open_file("file", flags, at=top.fd))
    assert caught.value.strerror == what


@pytest.mark.parametrize("what", ODD)
def test_a_file_takes_the_place_of_what_somebody_has_put_there(top, what):
    ODD[what](top.path / "file")
    if what == "a directory":
        with pytest.raises(OSError, match="directory"):
            replace_file("file", b"new", at=top.fd)
        return
    replace_file("file", b"new", at=top.fd)
    assert read_file("file", at=top.fd) == b"new"
    assert not (top.path / "secret").exists() or (top.path / "secret").read_text() == "secret"
    assert stat.S_IMODE(top.status("file").st_mode) == 0o600


def test_a_file_that_is_too_large_is_no_content(top):
    (top.path / "file").write_bytes(b"x" * 11)
    with pytest.raises(OSError, match="larger than 10 bytes"):
        read_file("file", at=top.fd, most_bytes=10)


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/hostname", "link/hostname", "a\0b"])
def test_no_path_leads_out_of_its_directory(top, path):
    (top.path / "a").mkdir()
    (top.path / "link").symlink_to("/etc")
    with pytest.raises(OSError), folder_of(path, at=top.fd) as (at, name):
        os.close(open_file(name, at=at))
