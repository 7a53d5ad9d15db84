"""Directory trees of any depth, shape and size, as payloads leave them: walked and removed by descriptors.

There is no recursion, one directory is open at a time, and the way back up is "..", which must lead to where we came
from. A link is never followed, another file system never entered. What vanishes or is moved meanwhile is no error.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from pilot.files.opening import kind_of, make_file, open_file, open_folder, permit
from pilot.values.deadline import Deadline

_MOST_TOLD = 3
_PIECE = 8 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """An entry of a tree. ``at`` is its directory, open until the next entry is asked for; so is ``beside``.

    ``path`` is where it lies below the top; ``status`` is its own, of a link too.
    """

    path: str
    name: str
    at: int
    status: os.stat_result
    beside: int = -1

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.status.st_mode)

    @property
    def is_folder(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.status.st_mode)


class Walk:
    """All that is below an open directory; a directory comes before what is in it.

    ``stopped`` says afterwards why not all was seen, "" if all was.
    """

    def __init__(self, top: int, until: Deadline, most: int = 500_000, beside: int | None = None) -> None:
        """Stop at ``until``, or after ``most`` entries. Below ``beside`` the same directories are made, if given."""
        self._top = top
        self._until = until
        self._most = most
        self._beside = beside
        self._unreadable: list[str] = []
        self._stopped = ""

    @property
    def stopped(self) -> str:
        """Why not all was seen."""
        told = ", ".join(self._unreadable[:_MOST_TOLD])
        return self._stopped or (f"cannot be read: {told}" if told else "")

    def __iter__(self) -> Iterator[Found]:
        """Once."""
        cursor = _Cursor(self._top)
        beside = None if self._beside is None else _Cursor(self._beside)
        try:
            yield from self._below(cursor, beside)
        except _MovedError:
            self._stopped = "it was changed meanwhile"
        finally:
            cursor.close()
            if beside is not None:
                beside.close()

    def _below(self, cursor: _Cursor, beside: _Cursor | None) -> Iterator[Found]:
        names: list[str] = []
        folders: list[list[str]] = [[]]  # of each directory above us, those that are still to be entered
        yield from self._entries(cursor.fd, "", beside, folders[0])
        while folders and not self._stopped:
            if not folders[-1]:
                folders.pop()
                if folders:
                    names.pop()
                    cursor.up()
                    if beside is not None:
                        beside.up()
                continue
            name = folders[-1].pop()
            if not self._down(cursor, name):
                continue
            if beside is not None:
                os.mkdir(name, 0o755, dir_fd=beside.fd)
                beside.down(name)
            names.append(name)
            folders.append([])
            yield from self._entries(cursor.fd, "/".join(names) + "/", beside, folders[-1])

    def _down(self, cursor: _Cursor, name: str) -> bool:
        try:
            cursor.down(name)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno != errno.EXDEV:
                self._unreadable.append(f"{name}: {error.strerror}")
            return False
        return True

    def _entries(self, at: int, prefix: str, beside: _Cursor | None, folders: list[str]) -> Iterator[Found]:
        """The entries of one directory; the names of the directories among them go to ``folders``."""
        with os.scandir(at) as listed:
            for entry in listed:
                self._most -= 1
                if self._most < 0 or self._until.expired():
                    self._stopped = "too many entries" if self._most < 0 else "not done in time"
                    break
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self._unreadable.append(f"{entry.name}: {error.strerror}")
                    continue
                yield Found(prefix + entry.name, entry.name, at, status, -1 if beside is None else beside.fd)
                if stat.S_ISDIR(status.st_mode):
                    folders.append(entry.name)


def copy(source: int, target: int, until: Deadline, most: int = 500_000) -> str:
    """Copy what is below one open directory into another: files and links; why not all of it, "" if all.

    Raises OSError where something cannot be read or written.
    """
    walk = Walk(source, until, most, beside=target)
    others = []
    for found in walk:
        if found.is_file:
            _copy_file(found)
        elif stat.S_ISLNK(found.status.st_mode):
            os.symlink(os.readlink(found.name, dir_fd=found.at), found.name, dir_fd=found.beside)
        elif not found.is_folder:
            others.append(f"{found.path} is {kind_of(found.status)}")
    return walk.stopped or "; ".join(others[:_MOST_TOLD])


def _copy_file(found: Found) -> None:
    source = open_file(found.name, at=found.at, links=0)
    try:
        target = make_file(found.name, at=found.beside, mode=stat.S_IMODE(found.status.st_mode) | stat.S_IWUSR)
        try:
            while os.sendfile(target, source, None, _PIECE):
                pass
            os.utime(target, ns=(found.status.st_atime_ns, found.status.st_mtime_ns))
        finally:
            os.close(target)
    finally:
        os.close(source)


def remove(name: str, until: Deadline, *, at: int, at_once: int = 10_000) -> str:
    """Remove a file or a whole tree; "" when it is gone, else why something of it is left.

    Directories without permissions get them back: they are their owner's, and so are we. Of one directory it knows
    ``at_once`` subdirectories at a time.
    """
    try:
        os.unlink(name, dir_fd=at)
    except FileNotFoundError:
        return ""
    except (IsADirectoryError, PermissionError):  # POSIX allows either for a directory
        pass
    except OSError as error:
        return f"{name}: {error.strerror}"
    else:
        return ""
    cursor = _Cursor(at)
    try:
        return _Removal(cursor, until, at_once).of(name)
    except _MovedError:
        return f"{name}: it was changed meanwhile"
    finally:
        cursor.close()


@dataclass(slots=True)
class _Level:
    """The directories that are to go in one directory; ``more``: there are others. ``failed`` when it was entered."""

    names: list[str]
    more: bool = False
    failed: int = 0


class _Removal:
    """One tree on its way out."""

    def __init__(self, cursor: _Cursor, until: Deadline, at_once: int) -> None:
        self._cursor = cursor
        self._until = until
        self._at_once = at_once
        self._left: list[str] = []
        self._failed = 0

    def of(self, name: str) -> str:
        """As `remove`."""
        levels = [_Level([name])]
        come_from: _Level | None = None
        while levels:
            if self._until.expired():
                return "there is no time to remove it"
            if not levels[-1].names:
                come_from = levels.pop()
                if levels:
                    self._cursor.up()
                continue
            if self._gone(levels[-1].names[-1], come_from):
                levels[-1].names.pop()
            else:
                levels.append(self._emptied())
            come_from = None
        return "; ".join(self._left)

    def _gone(self, name: str, come_from: _Level | None) -> bool:
        """Whether we are through with this directory; else we are in it now, for the first time or for what is more."""
        try:
            os.rmdir(name, dir_fd=self._cursor.fd)
        except FileNotFoundError:
            return True
        except OSError as error:
            again = come_from is None or (come_from.more and come_from.failed == self._failed)
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not again:
                return self._fails(name, error)
        else:
            return True
        try:
            self._cursor.down(name, repair=True)
        except OSError as error:
            return self._fails(name, error)
        return False

    def _fails(self, name: str, error: OSError) -> bool:
        self._failed += 1
        if len(self._left) < _MOST_TOLD:
            self._left.append(f"{name}: {error.strerror}")
        return True

    def _emptied(self) -> _Level:
        """Unlink all that is here and no directory; the directories."""
        level = _Level([], failed=self._failed)
        with os.scandir(self._cursor.fd) as listed:
            for entry in listed:
                if self._until.expired():
                    break
                if not entry.is_dir(follow_symlinks=False):
                    self._unlinked(entry.name)
                elif len(level.names) == self._at_once:
                    level.more = True
                    break
                else:
                    level.names.append(entry.name)
        return level

    def _unlinked(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._cursor.fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._fails(name, error)


class _MovedError(Exception):
    """The way back up leads elsewhere by now."""


class _Cursor:
    """One open directory of a tree, and where it came from."""

    def __init__(self, top: int) -> None:
        self.fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=top)
        self._device = os.fstat(self.fd).st_dev
        self._above: list[tuple[int, int]] = []

    def down(self, name: str, *, repair: bool = False) -> None:
        """Into a subdirectory. Raises OSError, and stays: EXDEV for one of another file system."""
        if repair:
            permit(name, self.fd)
        below = open_folder(name, at=self.fd)
        try:
            here = _identity(self.fd)
            _check_below(below, here, self._device)
        except OSError:
            os.close(below)
            raise
        os.close(self.fd)
        self.fd = below
        self._above.append(here)

    def up(self) -> None:
        """Back to the directory above. Raises _MovedError when that is another one by now."""
        try:
            above = os.open("..", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        except OSError as error:
            raise _MovedError from error
        os.close(self.fd)
        self.fd = above
        if _identity(above) != self._above.pop():
            raise _MovedError

    def close(self) -> None:
        os.close(self.fd)


def _identity(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _check_below(descriptor: int, above: tuple[int, int], device: int) -> None:
    """Raise OSError for a directory of another file system, and for one that does not lead back."""
    if os.fstat(descriptor).st_dev != device:
        raise OSError(errno.EXDEV, "another file system")
    found = os.stat("..", dir_fd=descriptor)
    if (found.st_dev, found.st_ino) != above:
        raise OSError(errno.ENOENT, "moved meanwhile")
