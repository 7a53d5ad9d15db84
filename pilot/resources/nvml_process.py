"""The NVML process as its parent sees it: where the library is, pipes, the limit of each question, and its end."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import signal
import site
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Self

from pilot.processes.starting import is_scarce, patiently, why_scarce
from pilot.values.deadline import Deadline
from pilot.values.stop import Waitable

_LIBRARY = "libnvidia-ml.so.1"
_PLACES = (  # where distributions, container runtimes, GKE and WSL put it; the loader knows the first ones only
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib",
    "lib64",
    "usr/local/nvidia/lib64",
    "usr/local/nvidia/lib",
    "usr/lib/wsl/lib",
)
_END_S = 1.0
_LONGEST = 1 << 22  # bytes of a line: a GPU takes 600


class NvmlGoneError(Exception):
    """NVML has given no answer: it hangs, has crashed, or could not be started. The text says which, and where."""


def device_nodes(sysroot: Path) -> bool:
    """Whether there is a device of an NVIDIA driver (``/dev/dxg`` is WSL's)."""
    dev = sysroot / "dev"
    return any(dev.glob("nvidia[0-9]*")) or any((dev / name).exists() for name in ("nvidiactl", "nvidia-caps", "dxg"))


def library_folders(library_path: str, sysroot: Path) -> list[str] | None:
    """Folders to be put into LD_LIBRARY_PATH for the library to be loaded; None if it is nowhere."""
    given = [one for one in library_path.split(os.pathsep) if one]
    if any(_holds(Path(one)) for one in given):
        return given
    found = [str(sysroot / place) for place in _PLACES if _holds(sysroot / place)]
    return [*given, *found] if found or _in_loader_cache(sysroot) else None


def _holds(folder: Path) -> bool:
    try:
        return (folder / _LIBRARY).exists()
    except OSError:
        return False


def _in_loader_cache(sysroot: Path) -> bool:
    """Whether ldconfig has seen it. Its cache is binary, with names in plain text."""
    try:
        return _LIBRARY.encode() in (sysroot / "etc/ld.so.cache").read_bytes()
    except OSError:
        return False


class NvmlProcess:
    """A running process. To be started in a thread that lives on: the process dies with it (PDEATHSIG)."""

    def __init__(self, library_folders: list[str], start: Deadline | None = None, *wakers: Waitable) -> None:
        """Start it; raises `NvmlGoneError` if the system has no process to give, until ``start`` or a waker comes."""
        try:
            limit = start or Deadline.after(0)
            self._process, self._pidfd = patiently(lambda: _start(library_folders), limit, *wakers)
        except OSError as error:
            why = why_scarce(error) if is_scarce(error) else error.strerror
            raise NvmlGoneError(f"no process for NVML can be started: {why}") from error
        self._rest = b""
        self._at = "its start"
        self.ended = False

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, message: dict[str, Any], limit_s: float) -> dict[str, Any]:
        """The answer. Raises `NvmlGoneError` if there is none within ``limit_s`` seconds; then the process is gone."""
        deadline = Deadline.after(limit_s)
        assert self._process.stdin is not None  # noqa: S101 - for mypy: it is a pipe
        with contextlib.suppress(BrokenPipeError):  # it has ended: `_read` says how
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
        while True:
            for answer in self._read(deadline, limit_s):
                if "at" not in answer:
                    return answer
                self._at = answer["at"]

    def close(self) -> None:
        """Kill it and collect it. It holds nothing that must be put in order."""
        if self.ended:
            return
        self.ended = True
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None  # noqa: S101
            pipe.close()
        if not self._exits_within(0):
            self._process.kill()
            # Bounded: a process in a driver that hangs (state D) is collected later, by `subprocess` itself.
            self._exits_within(_END_S)
        os.close(self._pidfd)
        self._process.poll()

    def _read(self, deadline: Deadline, limit_s: float) -> list[dict[str, Any]]:
        assert self._process.stdout is not None  # noqa: S101
        fd = self._process.stdout.fileno()
        if not _readable_within(fd, deadline.left()):
            self.close()
            raise NvmlGoneError(f"NVML has not answered within {limit_s:g} s (in {self._at})")
        data = os.read(fd, 1 << 16)
        if not data:
            self._exits_within(_END_S)
            self.close()
            raise NvmlGoneError(f"{_ending(self._process.returncode)} (in {self._at})")
        *lines, self._rest = (self._rest + data).split(b"\n")
        answers = [_object(line) for line in lines]
        if None in answers or len(self._rest) > _LONGEST:
            self.close()
            raise NvmlGoneError(f"the process for NVML gives garbage (in {self._at})")
        return [answer for answer in answers if answer is not None]

    def _exits_within(self, seconds: float) -> bool:
        return _readable_within(self._pidfd, seconds)


def _start(library_folders: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """The process and its pidfd. Raises OSError, and then leaves no process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pilot.resources.nvml", str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(library_folders),
        cwd="/",
        bufsize=0,
        start_new_session=True,
    )
    try:
        return process, os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.communicate()
        raise


def _object(line: bytes) -> dict[str, Any] | None:
    """What a line holds; None if that is no JSON object."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _readable_within(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _ending(status: int | None) -> str:
    if status is not None and status < 0:
        with contextlib.suppress(ValueError):
            return f"NVML has crashed with {signal.Signals(-status).name}"
    return f"the process for NVML has ended with status {status}"


def _environment(library_folders: list[str]) -> dict[str, str]:
    """The process's whole environment, built from nothing."""
    variables = {
        "LANG": "C.UTF-8",
        "PATH": "/usr/bin:/bin",
        "PYTHONSAFEPATH": "1",  # else `-m` puts the current directory in front of the libraries
        "PYTHONPATH": os.pathsep.join(_import_path()),
        "LD_LIBRARY_PATH": os.pathsep.join(library_folders),
    }
    return {name: value for name, value in variables.items() if value}


@cache
def _import_path() -> list[str]:
    """Where the pilot and pynvml are, as far as a new interpreter would not look there by itself."""
    packages = (importlib.util.find_spec("pilot"), importlib.util.find_spec("pynvml"))
    depths = (1, 0)  # pilot/__init__.py, pynvml.py
    origins = [(Path(spec.origin), depth) for spec, depth in zip(packages, depths, strict=True) if spec and spec.origin]
    roots = dict.fromkeys(str(origin.absolute().parents[depth]) for origin, depth in origins)
    return [root for root in roots if root not in site.getsitepackages()]
