"""Runs test_limits.py under a Linux kernel of its own, with control groups of version 2: user-mode Linux.

container-lab.md section 2: a machine that mounts version 1 has no version 2 to offer, whatever the namespace. The
kernel of Debian's user-mode-linux is an ordinary process; its root is this machine's, through hostfs. It has one
processor and no cpuset controller. As root: ``python -m tests.container.uml``; `make soak` runs it.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIMIT_S = 300

_INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
cd {root}
export PATH={path} HOME=/tmp PYTHONDONTWRITEBYTECODE=1
{python} -m pytest -p no:cacheprovider -rs -s -q tests/container/test_limits.py >{place}/said 2>&1
echo $? >{place}/status
sync
echo o >/proc/sysrq-trigger
sleep 60
"""


def kernel(place: Path) -> Path:
    """The installed one, or the package's, unpacked without installing it."""
    installed = shutil.which("linux.uml")
    if installed:
        return Path(installed)
    subprocess.run(["apt-get", "download", "-qq", "user-mode-linux"], cwd=place, check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["dpkg", "-x", *place.glob("*.deb"), place / "package"], check=True)
    return place / "package/usr/bin/linux.uml"


def main() -> int:
    """The tests' own exit status; what they said is printed."""
    # not in /tmp, which is a file system of its own in there
    with tempfile.TemporaryDirectory(prefix="pilot-uml-", dir="/var/tmp") as folder:
        place = Path(folder)
        try:
            linux = kernel(place)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"there is no user-mode Linux here, and its package cannot be had: {error}")
            return 1
        init = place / "init.sh"
        init.write_text(
            _INIT.format(root=ROOT, place=place, python=sys.executable, path="/usr/sbin:/usr/bin:/sbin:/bin")
        )
        init.chmod(0o755)
        command = [
            linux, "mem=1024M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "rw", f"init={init}",
            "con=null", "con0=fd:0,fd:1", "quiet",
        ]  # fmt: skip
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT_S,
            check=False,
        )
        status, said = place / "status", place / "said"
        if not status.exists():
            print(f"the kernel ended early: {done.stdout.decode(errors='replace')[-2000:]}")
            return 1
        print(said.read_text())
        return int(status.read_text())


if __name__ == "__main__":
    sys.exit(main())
