"""Show 2 of issue 5: limits that the kernel really sets. Each test makes one control group and looks from within it.

As root, version 1 or 2, whichever this machine has; tests/container/uml.py runs them under a kernel with version 2.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path("/sys/fs/cgroup")
NAME = f"pilot-limits-{os.getpid()}"
UNIFIED = (ROOT / "cgroup.controllers").exists()
MIB = 1 << 20


def unable(reason):
    """Skip; but where everything must be there, fail."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class Group:
    """A new group of one controller, below the root; nothing but what a test sets holds it down."""

    def __init__(self, controller: str) -> None:
        parent = ROOT if UNIFIED else next((one for one in ROOT.iterdir() if controller in one.name.split(",")), None)
        if os.geteuid() != 0:
            unable("the tests of limits need root")
        if parent is None or (UNIFIED and controller not in (ROOT / "cgroup.controllers").read_text().split()):
            unable(f"no control group {controller} here")
        try:
            if UNIFIED:
                (ROOT / "cgroup.subtree_control").write_text(f"+{controller}")
            self.folder = parent / NAME
            self.folder.mkdir()
        except OSError as error:
            unable(f"no control group can be made: {error}")
        self.folders = [self.folder]

    def set(self, **values: str) -> None:
        """Write files; a double underscore stands for the point in a name."""
        for name, value in values.items():
            (self.folder / name.replace("__", ".", 1)).write_text(value)

    def below(self) -> Path:
        """A group inside, in which the probe is put from then on."""
        self.folders.append(self.folders[-1] / "inner")
        self.folders[-1].mkdir()
        return self.folders[-1]

    def probe(self, tmp_path: Path, **environment: str) -> dict:
        """What `pilot probe --json` says in there."""
        enter = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', self.folders[-1] / "cgroup.procs"]
        done = subprocess.run(
            [*enter, sys.executable, "-m", "pilot", "probe", "--json", "--work", tmp_path],
            env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True, check=False,
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["cgroup"]["version"] == (2 if UNIFIED else 1)
        return found

    def remove(self) -> None:
        """The kernel lets go of ended members within milliseconds."""
        for folder in reversed(self.folders):
            for pause_s in (0.01, 0.1, 1, 0):
                try:
                    folder.rmdir()
                    break
                except OSError:
                    time.sleep(pause_s)


@pytest.fixture
def group() -> Iterator:
    """Makes the group of a controller; it is removed when the test ends."""
    made = []

    def make(controller: str) -> Group:
        made.append(Group(controller))
        return made[-1]

    yield make
    for one in made:
        one.remove()


def set_quota(group: Group, cores: float) -> Path:
    """The file that says so."""
    if UNIFIED:
        group.set(cpu__max=f"{cores * 100000:.0f} 100000")
        return group.folder / "cpu.max"
    group.set(cpu__cfs_period_us="100000", cpu__cfs_quota_us=f"{cores * 100000:.0f}")
    return group.folder / "cpu.cfs_quota_us"


def set_memory(group: Group, mib: int) -> Path:
    """The file that says so."""
    file = group.folder / ("memory.max" if UNIFIED else "memory.limit_in_bytes")
    file.write_text(str(mib * MIB))
    return file


@pytest.mark.parametrize("quota", [1.5, 0.5])
def test_show_2_a_quota_is_kept_as_a_fraction(quota, group, tmp_path):
    if len(os.sched_getaffinity(0)) < quota:
        unable(f"a quota of {quota} shows on two processors only")
    cpu = group("cpu")
    file = set_quota(cpu, quota)
    found = cpu.probe(tmp_path)
    print(f"\nquota {quota}: cores {found['cores']} of {found['cpus']}, {found['limits_from']['cores']}")
    assert (found["cores"], found["cpus"]) == (quota, len(os.sched_getaffinity(0)))
    assert found["limits_from"]["cores"] == str(file)


def test_show_2_a_cpuset_of_one_core_gives_one(group, tmp_path):
    if len(os.sched_getaffinity(0)) < 2:
        unable("a cpuset of one processor shows on two only")
    cpuset = group("cpuset")
    cpuset.set(cpuset__mems="0", cpuset__cpus=str(max(os.sched_getaffinity(0))))
    found = cpuset.probe(tmp_path)
    print(f"\ncpuset of one: cores {found['cores']} of {found['cpus']}, {found['limits_from']['cores']}")
    assert (found["cores"], found["cpus"]) == (1.0, 1)
    file = Path(found["limits_from"]["cores"])
    assert file.parent == cpuset.folder
    assert file.name in {"cpuset.cpus.effective", "cpuset.effective_cpus"}


def test_show_2_a_memory_limit_is_told_to_the_byte(group, tmp_path):
    memory = group("memory")
    file = set_memory(memory, 256)
    found = memory.probe(tmp_path)
    print(f"\n256 MiB: {found['memory_bytes']}, {found['limits_from']['memory']}")
    assert found["memory_bytes"] == 268435456
    assert found["limits_from"]["memory"] == str(file)


def test_show_2_the_number_of_processes_is_told(group, tmp_path):
    pids = group("pids")
    pids.set(pids__max="64")
    found = pids.probe(tmp_path)
    print(f"\n64 processes: {found['pids']}, {found['limits_from']['pids']}")
    assert found["pids"] == 64
    assert found["limits_from"]["pids"] == str(pids.folder / "pids.max")


def test_a_limit_on_an_ancestor_counts(group, tmp_path):
    memory = group("memory")
    file = set_memory(memory, 256)
    memory.below()
    found = memory.probe(tmp_path)
    assert (found["memory_bytes"], found["limits_from"]["memory"]) == (256 * MIB, str(file))


def test_a_group_without_limits_has_what_the_machine_has(group, tmp_path):
    memory = group("memory")
    found = memory.probe(tmp_path)
    assert found["memory_bytes"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found["limits_from"]["memory"] == "physical memory"


def test_the_smaller_of_variable_and_kernel_counts(group, tmp_path):
    memory = group("memory")
    file = set_memory(memory, 256)
    less = memory.probe(tmp_path, POD_MEMORY_LIMIT_MIB="200", POD_CPU_LIMIT_M="250")
    assert (less["memory_bytes"], less["limits_from"]["memory"]) == (200 * MIB, "POD_MEMORY_LIMIT_MIB")
    assert (less["cores"], less["limits_from"]["cores"]) == (0.25, "POD_CPU_LIMIT_M")
    more = memory.probe(tmp_path, POD_MEMORY_LIMIT_MIB="20000", POD_CPU_LIMIT_M="64000")
    assert (more["memory_bytes"], more["limits_from"]["memory"]) == (256 * MIB, str(file))
    assert more["cores"] == more["cpus"]
