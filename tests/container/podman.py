"""Podman with storage and settings of its own, that leaves nothing behind."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

TOOLS = ("buildah", "podman", "runc")

# The limits are below what a machine without CAP_SYS_RESOURCE may set; runc also knows cgroups of version 1.
_CONTAINERS = """
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=4096:4096"]
netns = "host"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
runtime = "runc"
tmp_dir = "{place}/run/libpod"
"""

_STORAGE = """
[storage]
driver = "overlay"
graphroot = "{place}/storage"
runroot = "{place}/run"
"""


class Podman:
    """Runs `podman`; `environment` lets other tools work on the same storage."""

    def __init__(self):
        self.place = Path(tempfile.mkdtemp(prefix="pilot-image-", dir="/var/tmp"))
        self.place.chmod(0o755)  # mmdebstrap lets apt work as another user
        (self.place / "tmp").mkdir(mode=0o755)
        self.environment = {**os.environ, "TMPDIR": str(self.place / "tmp")}
        for name, text in (("CONTAINERS_CONF", _CONTAINERS), ("CONTAINERS_STORAGE_CONF", _STORAGE)):
            file = self.place / name
            file.write_text(text.format(place=self.place))
            self.environment[name] = str(file)

    @staticmethod
    def missing():
        """Why there can be no podman here; "" when there can."""
        if os.geteuid() != 0:
            return "the tests of the image need root"
        tools = [tool for tool in TOOLS if not shutil.which(tool)]
        return f"not installed: {', '.join(tools)}" if tools else ""

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self("rm", "--all", "--force", "--time", "0")
        self("image", "umount", "--all")
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for mount in reversed(mounts):
            if mount.startswith(f"{self.place}/"):
                subprocess.run(["umount", mount], check=True)
        shutil.rmtree(self.place)
        _remove_cgroups()

    def __call__(self, *arguments):
        """Run a podman command to its end; what came of it, as text."""
        command = ["podman", *map(str, arguments)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)

    def answer(self, *arguments):
        """What a podman command prints; it must succeed."""
        done = self(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def _remove_cgroups():
    """Remove podman's cgroups, which it leaves empty; one that is in use stays."""
    for root in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")):
        for name in ("libpod_parent/conmon", "libpod_parent"):
            with contextlib.suppress(OSError):
                (root / name).rmdir()
