"""Show 1 of issue 5: what the pod has, in recorded kinds of trees; the disk; garbage in the kernel's files."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given as for_any
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pilot.agent.probing import as_json, rows, size
from pilot.agent.watching import gpu_in_use
from pilot.resources.cgroup import CgroupLimits, parse_cpus, read_cpu_seconds, read_limits
from pilot.resources.cpu import read_cpu
from pilot.resources.disk import check_usable, count, read_disk
from pilot.resources.given import Given
from pilot.resources.gpu import Gpu, Gpus, GpuSample
from pilot.resources.groups import parse_mounts, parse_paths
from pilot.resources.probe import probe
from pilot.resources.visible import Visible
from pilot.values.errors import SiteError
from pilot.values.settings import resolve
from tests.trees import tree

MIB = 1 << 20
NO_GPU = Visible(nvidia="none")


# --- the trees: parts of what container-lab.md section 2 recorded -----------------------------------------------

NODE = {"proc/meminfo": "MemTotal:       8388608 kB\nMemFree: 1 kB\n", "sys/devices/system/cpu/online": "0-7\n"}
POD = "/kubepods/burstable/pod1/c1"
V1 = ("cpu,cpuacct", "memory", "pids", "cpuset")
UNLIMITED_V1 = "9223372036854771712\n"


def v1_mounts(root: str, *controllers: str, place: str = "/sys/fs/cgroup", mode: str = "ro") -> str:
    return "".join(
        f"{156 + i} 155 0:{29 + i} {root} {place}/{one} {mode},nosuid - cgroup cgroup rw,{one}\n"
        for i, one in enumerate(controllers)
    )


def v2_mount(root: str = "/", place: str = "/sys/fs/cgroup", mode: str = "rw") -> str:
    return f"27 26 0:19 {root} {place} {mode},relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def v1(quota: str, memory: str, folder: str = "", place: str = "sys/fs/cgroup", **more: str) -> dict[str, str]:
    files = {
        f"{place}/cpu,cpuacct{folder}/cpu.cfs_quota_us": quota,
        f"{place}/cpu,cpuacct{folder}/cpu.cfs_period_us": "100000\n",
        f"{place}/memory{folder}/memory.limit_in_bytes": memory,
    }
    return files | {f"{place}/{name.replace('__', '/')}": text for name, text in more.items()}


def v2(cpu: str, memory: str, folder: str = "", place: str = "sys/fs/cgroup") -> dict[str, str]:
    return {
        f"{place}/cgroup.controllers": "cpu io memory pids\n",
        f"{place}{folder}/cpu.max": cpu,
        f"{place}{folder}/memory.max": memory,
    }


def v1_groups(path: str) -> dict[str, str]:
    controllers = ("name=systemd", *V1)
    return {"proc/self/cgroup": "".join(f"{9 - i}:{one}:{path}\n" for i, one in enumerate(controllers))}


CPU_FILE = "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us"
MEMORY_FILE = "sys/fs/cgroup/memory/memory.limit_in_bytes"
V1_POD = v1_groups(POD) | {"proc/self/mountinfo": v1_mounts(POD, *V1)}
V2_POD = {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": v2_mount()}
DEEP = "/kubepods.slice/pod1.slice/c1.scope"

TREES = {
    # name: (files, affinity, given, version, cores, cpus, memory, source of cores, source of memory)
    "v1 pod": (
        V1_POD | v1("50000\n", "134217728\n"), "0-7", {},
        1, 0.5, 8, 128 * MIB, CPU_FILE, MEMORY_FILE,
    ),
    "v1 pod, no limits": (
        V1_POD | v1("-1\n", UNLIMITED_V1), "0-7", {},
        1, 8.0, 8, 8192 * MIB, "affinity", "physical memory",
    ),
    "v1 pod, 64 KiB pages": (
        V1_POD | v1("-1\n", "9223372036854710272\n"), "0-7", {},
        1, 8.0, 8, 8192 * MIB, "affinity", "physical memory",
    ),
    "v2 pod": (
        V2_POD | v2("250000 100000\n", "268435456\n"), "0-7", {},
        2, 2.5, 8, 256 * MIB, "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/memory.max",
    ),
    "v2 pod, no limits": (
        V2_POD | v2("max 100000\n", "max\n"), "0-7", {},
        2, 8.0, 8, 8192 * MIB, "affinity", "physical memory",
    ),
    "v2 pod, read-only": (
        V2_POD | {"proc/self/mountinfo": v2_mount(mode="ro")} | v2("150000 100000\n", "1073741824\n"), "0-7", {},
        2, 1.5, 8, 1024 * MIB, "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/memory.max",
    ),
    "hybrid, limits in v1": (
        v1_groups(POD) | {"proc/self/mountinfo": v1_mounts(POD, *V1) + v2_mount(POD, "/sys/fs/cgroup/unified")}
        | v1("200000\n", "134217728\n") | {"sys/fs/cgroup/unified/cgroup.controllers": "hugetlb\n"}, "0-7", {},
        1, 2.0, 8, 128 * MIB, CPU_FILE, MEMORY_FILE,
    ),
    "hybrid, limits in v2": (
        {
            "proc/self/cgroup": f"1:name=systemd:{DEEP}\n0::{DEEP}\n",
            "proc/self/mountinfo": v1_mounts("/", "systemd", place="/x").replace("rw,systemd", "rw,name=systemd")
            + v2_mount("/", "/sys/fs/cgroup/unified"),
        } | v2("300000 100000\n", "536870912\n", DEEP, "sys/fs/cgroup/unified"), "0-7", {},
        2, 3.0, 8, 512 * MIB,
        f"sys/fs/cgroup/unified{DEEP}/cpu.max", f"sys/fs/cgroup/unified{DEEP}/memory.max",
    ),
    "none": ({}, "0-2", {}, 0, 3.0, 3, 8192 * MIB, "affinity", "physical memory"),
    "none is mounted": (
        v1_groups(POD) | {"proc/self/mountinfo": "141 71 0:41 / / ro - overlay overlay rw\n"}, "0-7", {},
        0, 8.0, 8, 8192 * MIB, "affinity", "physical memory",
    ),
    "no mountinfo": (
        v1_groups(POD) | v1("50000\n", "134217728\n"), "0-7", {},
        1, 0.5, 8, 128 * MIB, CPU_FILE, MEMORY_FILE,
    ),
    "v1 nested in its pod": (
        v1_groups(f"{POD}/inner") | {"proc/self/mountinfo": v1_mounts(POD, *V1)}
        | v1("400000\n", "134217728\n") | v1("100000\n", UNLIMITED_V1, "/inner"), "0-7", {},
        1, 1.0, 8, 128 * MIB, "sys/fs/cgroup/cpu,cpuacct/inner/cpu.cfs_quota_us", MEMORY_FILE,
    ),
    "v2 limit on an ancestor": (
        {"proc/self/cgroup": f"0::{DEEP}\n", "proc/self/mountinfo": v2_mount()}
        | v2("max 100000\n", "max\n", DEEP) | v2("150000 100000\n", "268435456\n", "/kubepods.slice/pod1.slice"),
        "0-7", {},
        2, 1.5, 8, 256 * MIB,
        "sys/fs/cgroup/kubepods.slice/pod1.slice/cpu.max", "sys/fs/cgroup/kubepods.slice/pod1.slice/memory.max",
    ),
    "v1 limit on an unseen ancestor": (
        V1_POD | v1("-1\n", UNLIMITED_V1)
        | {"sys/fs/cgroup/memory/memory.stat": "cache 0\nhierarchical_memory_limit 104857600\n"}, "0-7", {},
        1, 8.0, 8, 100 * MIB, "affinity", "sys/fs/cgroup/memory/memory.stat",
    ),
    "mounted elsewhere": (
        v1_groups(POD) | {"proc/self/mountinfo": v1_mounts("/docker/abc", *V1, place="/host\\040cgroup")}
        | v1("700000\n", "268435456\n", place="host cgroup"), "0-7", {},
        1, 7.0, 8, 256 * MIB,
        "host cgroup/cpu,cpuacct/cpu.cfs_quota_us", "host cgroup/memory/memory.limit_in_bytes",
    ),
    "v2 out of its namespace": (
        {"proc/self/cgroup": "0::/../c2\n", "proc/self/mountinfo": v2_mount("/..")} | v2("50000 100000\n", "max\n"),
        "0-7", {},
        2, 0.5, 8, 8192 * MIB, "sys/fs/cgroup/cpu.max", "physical memory",
    ),
    "v2 mounted from above its namespace": (
        {"proc/self/cgroup": "0::/../../kubepods\n", "proc/self/mountinfo": v2_mount("/../..")}
        | v2("max 100000\n", "268435456\n") | v2("50000 100000\n", "max\n", "/kubepods"), "0-7", {},
        2, 0.5, 8, 256 * MIB, "sys/fs/cgroup/kubepods/cpu.max", "sys/fs/cgroup/memory.max",
    ),
    "v2 mounted from above, deeper": (
        {"proc/self/cgroup": "0::/../kubepods/pod1/c1\n", "proc/self/mountinfo": v2_mount("/..")}
        | v2("150000 100000\n", "max\n", "/kubepods/pod1/c1") | v2("max 100000\n", "134217728\n", "/kubepods/pod1"),
        "0-7", {},
        2, 1.5, 8, 128 * MIB, "sys/fs/cgroup/kubepods/pod1/c1/cpu.max", "sys/fs/cgroup/kubepods/pod1/memory.max",
    ),
    "v1 mounted from above its namespace": (
        v1_groups("/../../kubepods") | {"proc/self/mountinfo": v1_mounts("/../..", *V1)}
        | v1("-1\n", "134217728\n") | v1("50000\n", UNLIMITED_V1, "/kubepods"), "0-7", {},
        1, 0.5, 8, 128 * MIB, "sys/fs/cgroup/cpu,cpuacct/kubepods/cpu.cfs_quota_us", MEMORY_FILE,
    ),
    "v2 mounted from further above than we are": (
        {"proc/self/cgroup": "0::/../kubepods\n", "proc/self/mountinfo": v2_mount("/../..")}
        | v2("250000 100000\n", "268435456\n") | v2("50000 100000\n", "1048576\n", "/kubepods"), "0-7", {},
        2, 2.5, 8, 256 * MIB, "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/memory.max",
    ),
    "v2 mounted from below where we are": (
        {"proc/self/cgroup": "0::/../../../kubepods\n", "proc/self/mountinfo": v2_mount("/../..")}
        | v2("250000 100000\n", "268435456\n") | v2("50000 100000\n", "1048576\n", "/kubepods")
        | v2("50000 100000\n", "1048576\n", place="sys/fs/kubepods"), "0-7", {},
        2, 2.5, 8, 256 * MIB, "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/memory.max",
    ),
    "v2 path that leaves the mount again": (
        {"proc/self/cgroup": "0::/../../kubepods/../../outside\n", "proc/self/mountinfo": v2_mount("/../..")}
        | v2("250000 100000\n", "268435456\n") | v2("50000 100000\n", "1048576\n", place="sys/fs/outside"),
        "0-7", {},
        2, 2.5, 8, 256 * MIB, "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/memory.max",
    ),
    "odd cpuset, v1": (
        V1_POD | v1("-1\n", UNLIMITED_V1, cpuset__cpuset_effective_cpus="")
        | {"sys/fs/cgroup/cpuset/cpuset.cpus": "1,3,5-7\n"}, "1,3,5-7", {},
        1, 5.0, 5, 8192 * MIB, "sys/fs/cgroup/cpuset/cpuset.cpus", "physical memory",
    ),
    "odd cpuset and a quota, v2": (
        V2_POD | v2("250000 100000\n", "max\n") | {"sys/fs/cgroup/cpuset.cpus.effective": "2,4-5,7\n"}, "2,4,5,7", {},
        2, 2.5, 4, 8192 * MIB, "sys/fs/cgroup/cpu.max", "physical memory",
    ),
    "cpuset and taskset": (
        V2_POD | v2("max 100000\n", "max\n") | {"sys/fs/cgroup/cpuset.cpus.effective": "0-3\n"}, "2", {},
        2, 1.0, 1, 8192 * MIB, "affinity", "physical memory",
    ),
    "quota above the cpuset": (
        V2_POD | v2("600000 100000\n", "max\n") | {"sys/fs/cgroup/cpuset.cpus.effective": "0-3\n"}, "0-3", {},
        2, 4.0, 4, 8192 * MIB, "sys/fs/cgroup/cpuset.cpus.effective", "physical memory",
    ),
    "downward API says less": (
        V2_POD | v2("400000 100000\n", "4294967296\n"), "0-7",
        {"POD_CPU_LIMIT_M": "1500", "POD_MEMORY_LIMIT_MIB": "1000"},
        2, 1.5, 8, 1000 * MIB, "POD_CPU_LIMIT_M", "POD_MEMORY_LIMIT_MIB",
    ),
    "downward API says the node's": (
        V2_POD | v2("150000 100000\n", "268435456\n"), "0-7",
        {"POD_CPU_LIMIT_M": "7910", "POD_MEMORY_LIMIT_MIB": "7800"},
        2, 1.5, 8, 256 * MIB, "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/memory.max",
    ),
    "downward API says the same": (
        V2_POD | v2("1500 1000\n", "268435000\n"), "0-7",
        {"POD_CPU_LIMIT_M": "1500", "POD_MEMORY_LIMIT_MIB": "256"},
        2, 1.5, 8, 268435000, "sys/fs/cgroup/cpu.max", "sys/fs/cgroup/memory.max",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TREES)
def test_show_1_cores_memory_and_their_sources_are_right(name, tmp_path):
    files, affinity, environ, *expected = TREES[name]
    resolved = resolve({}, environ, {})
    found = probe(
        Path("/"),
        tree(tmp_path, NODE | files),
        given=Given.of(resolved.settings, resolved.origins),
        visible=NO_GPU,
        affinity=parse_cpus(affinity),
    )
    sources = [found.limits_from[one].removeprefix(f"{tmp_path}/") for one in ("cores", "memory")]
    got = [found.cgroup_version, found.cores, found.cpus, found.memory_bytes, *sources]
    print(
        f"\n{name:<31} v{got[0]} {got[1]:>4} of {got[2]} {got[3] / MIB:>7.1f} MiB  {sources[0]}  {sources[1]}", end=" "
    )
    assert got == expected
    assert isinstance(found.cores, float)
    assert found.whole_cores == max(1, int(found.cores))


def test_processes_are_limited_by_the_tightest_group(tmp_path):
    files = V2_POD | {
        "proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/pids.max": "max\n", "sys/fs/cgroup/a/pids.max": "64\n",
    }  # fmt: skip
    found = probe(Path("/"), tree(tmp_path, NODE | files), visible=NO_GPU)
    assert (found.pids, found.limits_from["pids"]) == (64, str(tmp_path / "sys/fs/cgroup/a/pids.max"))


def test_a_pod_resized_in_place_is_seen_at_the_next_look(tmp_path):
    pod = tree(tmp_path, NODE | V2_POD | v2("100000 100000\n", "268435456\n"))
    environ = {"POD_CPU_LIMIT_M": "1000", "POD_MEMORY_LIMIT_MIB": "256"}
    resolved = resolve({}, environ, {})
    given = Given.of(resolved.settings, resolved.origins)
    at_start = given.unless_stated(read_limits(pod))
    tree(pod, v2("200000 100000\n", "536870912\n"))
    grown = probe(Path("/"), pod, given=at_start, visible=NO_GPU, affinity=frozenset(range(8)))
    assert (grown.cores, grown.memory_bytes, grown.notes) == (2.0, 512 * MIB, ())
    stale = probe(Path("/"), pod, given=given, visible=NO_GPU, affinity=frozenset(range(8)))
    assert (stale.cores, stale.memory_bytes) == (1.0, 256 * MIB)
    assert all("do not follow a resized pod" in note for note in stale.notes)
    assert len(stale.notes) == 2


def test_a_limit_that_only_a_variable_tells_is_used_and_doubted(tmp_path):
    found = probe(
        Path("/"), tree(tmp_path, NODE | V2_POD | v2("max 100000\n", "max\n")),
        given=Given(cores=(3.92, "POD_CPU_LIMIT_M")), visible=NO_GPU, affinity=frozenset(range(4)),
    )  # fmt: skip
    assert (found.cores, found.limits_from["cores"]) == (3.92, "POD_CPU_LIMIT_M")
    (note,) = found.notes
    assert "what the node has" in note


def test_cpu_time_of_the_group_is_read_in_both_versions(tmp_path):
    one = tree(tmp_path / "1", V1_POD | {"sys/fs/cgroup/cpu,cpuacct/cpuacct.usage": "1500000000\n"})
    one = tree(one, {"proc/self/mountinfo": v1_mounts(POD, "cpu,cpuacct")})
    two = tree(tmp_path / "2", V2_POD | {"sys/fs/cgroup/cpu.stat": "usage_usec 2500000\nuser_usec 1\n"})
    assert [read_cpu_seconds(root) for root in (one, two, tmp_path / "3")] == [1.5, 2.5, None]


# --- what is given ----------------------------------------------------------------------------------------------


def test_harvesters_storage_limit_wins_over_the_downward_api():
    environ = {"storageLimitMiB": "20480.0", "POD_EPHEMERAL_STORAGE_LIMIT_MIB": "90000"}
    resolved = resolve({}, environ, {})
    assert Given.of(resolved.settings, resolved.origins) == Given(disk_bytes=(20480 * MIB, "storageLimitMiB"))
    flag = resolve({}, environ, {"disk_limit": 10})
    assert Given.of(flag.settings, flag.origins).disk_bytes == (10 * MIB, "setting disk_limit")
    assert Given.of(resolve({}, {}, {}).settings) == Given()


def test_what_the_control_group_states_too_is_not_kept():
    given = Given(cores=(1.5, "A"), memory_bytes=(256 * MIB, "B"), disk_bytes=(1, "C"))
    assert given.unless_stated(CgroupLimits(2, quota=1.5, memory_bytes=256 * MIB - 7)) == Given(disk_bytes=(1, "C"))
    assert given.unless_stated(CgroupLimits(2, quota=2.0, memory_bytes=300 * MIB)) == given
    assert given.unless_stated(CgroupLimits(0)) == given


# --- the disk ---------------------------------------------------------------------------------------------------


def test_used_is_what_the_blocks_hold_and_several_names_count_once(tmp_path):
    inside, outside = tmp_path / "work", tmp_path / "outside"
    tree(inside, {"a/b/c": "", "empty/x": ""})
    (inside / "a/big").write_bytes(b"x" * 3 * MIB)
    (inside / "a/sparse").touch()
    os.truncate(inside / "a/sparse", 1 << 40)
    (inside / "again").hardlink_to(inside / "a/big")
    outside.mkdir()
    (outside / "huge").write_bytes(b"x" * 8 * MIB)
    (inside / "link").symlink_to(outside)
    used = count(inside)
    assert used.stopped == ""
    assert used.entries == 9
    assert 3 * MIB <= used.size_bytes < 3.5 * MIB


def test_counting_ends_at_its_limits_and_says_so(tmp_path):
    tree(tmp_path, {f"f{i}": "" for i in range(20)})
    assert (count(tmp_path, most=5).entries, count(tmp_path, most=5).stopped) == (5, "more than 5 entries")
    assert "within 0 s" in count(tmp_path, limit_s=0).stopped
    found = read_disk(tmp_path, budget_bytes=100, limit_s=0)
    assert found.used is not None
    assert found.used.stopped


def test_a_work_directory_behind_a_link_is_counted(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/file").write_bytes(b"x" * MIB)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert count(tmp_path / "link").size_bytes >= MIB


def test_the_budget_is_less_what_is_used_and_the_smaller_of_both_counts(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 3 * MIB)
    tight = probe(tmp_path, given=Given(disk_bytes=(10 * MIB, "storageLimitMiB")), visible=NO_GPU)
    assert (tight.disk_bytes, tight.limits_from["disk"]) == (7 * MIB, "storageLimitMiB")
    assert tight.disk is not None
    assert tight.disk.free_inodes is None or tight.disk.free_inodes > 0
    over = probe(tmp_path, given=Given(disk_bytes=(MIB, "storageLimitMiB")), visible=NO_GPU)
    assert over.disk_bytes == 0
    wide = probe(tmp_path, given=Given(disk_bytes=(1 << 60, "storageLimitMiB")), visible=NO_GPU)
    assert wide.limits_from["disk"] == f"free space of {tmp_path}"


def test_a_directory_to_be_made_is_looked_at_where_it_would_be(tmp_path):
    found = read_disk(tmp_path / "not/yet", budget_bytes=MIB)
    assert found.left_bytes == MIB
    assert found.free_bytes > 0


@pytest.mark.parametrize(("work", "why"), [("file/below", "is no directory"), ("/proc/1/x", "/proc")])
def test_a_directory_that_cannot_be_used_is_one_line(tmp_path, work, why):
    (tmp_path / "file").touch()
    with pytest.raises(SiteError, match=why):
        check_usable(tmp_path / work)


# --- the processor ----------------------------------------------------------------------------------------------


def test_sockets_cores_and_threads_are_counted_in_sysfs(tmp_path):
    place = "sys/devices/system/cpu"
    files = {f"{place}/online": "0-7\n", f"{place}/cpu0/cpufreq/cpuinfo_max_freq": "3400000\n"}
    for one in range(8):
        files[f"{place}/cpu{one}/topology/physical_package_id"] = f"{one % 4 // 2}\n"
        files[f"{place}/cpu{one}/topology/thread_siblings_list"] = f"{one % 4},{one % 4 + 4}\n"
    cpu = read_cpu(tree(tmp_path, files))
    assert (cpu.sockets, cpu.cores_per_socket, cpu.threads_per_core, cpu.n_logical, cpu.mhz) == (2, 2, 2, 8, 3400.0)


def test_without_sysfs_cpuinfo_tells_them(tmp_path):
    block = "processor\t: {}\nvendor_id\t: AuthenticAMD\ncpu MHz\t\t: 2596.144\nphysical id\t: {}\ncpu cores\t: 2\n"
    text = "\n".join(block.format(one, one // 4) for one in range(8))
    cpu = read_cpu(tree(tmp_path, {"proc/cpuinfo": text}))
    assert (cpu.sockets, cpu.cores_per_socket, cpu.threads_per_core, cpu.n_logical) == (2, 2, 2, 8)
    assert (cpu.vendor, cpu.mhz) == ("AuthenticAMD", 2596.144)


def test_what_a_processor_does_not_tell_is_none(tmp_path):
    cpu = read_cpu(tmp_path)
    assert (cpu.sockets, cpu.cores_per_socket, cpu.threads_per_core, cpu.n_logical, cpu.mhz) == (None,) * 5


# --- garbage ----------------------------------------------------------------------------------------------------

KERNEL_FILES = sorted({name for files, *_ in TREES.values() for name in files} | {
    "proc/cpuinfo", "proc/meminfo", "sys/devices/system/cpu/online", "sys/fs/cgroup/pids.max",
    "sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "sys/fs/cgroup/cpuset.cpus.effective",
})  # fmt: skip
WORDS = st.sampled_from(
    ["max", "-1", "0", "²", "9" * 5000, "1e9", "inf", "nan", "\0", "..", "/", ":", "0::/", " - cgroup2 c rw", "\\777",
     "0-99999999999", "5-1", "usage_usec", "hierarchical_memory_limit", "MemTotal:", "processor: 0\ncpu cores: 0", "\n"]
)  # fmt: skip
TEXTS = st.one_of(st.binary(max_size=60), st.lists(WORDS, max_size=6).map(lambda words: " ".join(words).encode()))


@hypothesis_settings(max_examples=60, deadline=None)
@for_any(contents=st.dictionaries(st.sampled_from(KERNEL_FILES), TEXTS, max_size=8))
def test_garbage_in_the_kernels_files_never_raises(contents):
    with tempfile.TemporaryDirectory() as folder:
        for name, content in contents.items():
            file = Path(folder, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        found = probe(Path("/"), Path(folder), visible=NO_GPU, affinity=frozenset({0, 1}))
        assert found.cores > 0
        assert found.cpus in {1, 2}
        assert found.memory_bytes > 0
        read_cpu_seconds(Path(folder))
        assert list(rows(found))


@for_any(text=st.text(max_size=200) | st.lists(WORDS, max_size=20).map(" ".join))
def test_parsers_take_any_text(text):
    parse_paths(text)
    list(parse_mounts(text))
    assert all(0 <= one < 1 << 16 for one in parse_cpus(text))


@for_any(cpus=st.frozensets(st.integers(0, 300), max_size=20))
def test_a_list_of_processors_is_read_back(cpus):
    assert parse_cpus(",".join(map(str, cpus))) == cpus


# --- what is shown ----------------------------------------------------------------------------------------------


def test_the_object_has_the_binding_keys(tmp_path):
    shown = as_json(probe(tmp_path, visible=NO_GPU))
    assert isinstance(shown["cores"], float)
    assert {type(shown[key]) for key in ("cpus", "memory_bytes", "disk_bytes")} == {int}
    assert shown["gpus"] == []
    assert shown["cgroup"]["version"] in {0, 1, 2}
    assert set(shown["limits_from"]) == {"cores", "memory", "disk", "pids"}
    assert "NVIDIA_VISIBLE_DEVICES is none" in shown["gpu"]["note"]


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (1023, "1023 B"), (256 * MIB, "256 MiB"), (1.5 * 2**30, "1.5 GiB"), (1 << 60, "1048576 TiB")],
)
def test_sizes_are_said_in_binary_units(count, said):
    assert size(count) == said


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (GpuSample("GPU-1", utilisation=93.4, used_bytes=12 << 30), "93 %, 12 GiB of 80 GiB"),
        (GpuSample("GPU-1", utilisation=None, used_bytes=MIB), "? %, 1 MiB of 80 GiB"),
        (GpuSample("GPU-1", why="NVML does not answer"), "NVML does not answer"),
        (GpuSample("GPU-1", used_bytes=0, lost=True, why="off the bus"), "? %, 0 B of 80 GiB, lost: off the bus"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_gpu_is_watched_by_its_figures(sample, said):
    assert gpu_in_use(sample, Gpus((Gpu("GPU-1", "H100", 80 << 30, mig=False, healthy=True, index=0),))) == said


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        (GpuSample("GPU-1", utilisation=11.0), "11 %, memory not told"),
        (GpuSample("GPU-1", utilisation=11.0, used_bytes=MIB), "11 %, 1 MiB of ?"),
        (GpuSample("GPU-1"), "?"),
        (GpuSample("GPU-2", utilisation=11.0), "11 %, memory not told"),
    ],
)
def test_a_gpu_whose_memory_is_not_told_is_watched_by_the_rest(sample, said):
    unified = Gpu("GPU-1", "NVIDIA GB10", None, mig=False, healthy=True, index=0)
    assert gpu_in_use(sample, Gpus((unified,))) == said


def test_a_gpu_whose_memory_is_not_told_is_shown_so(tmp_path):
    unified = Gpu("GPU-1", "NVIDIA GB10", None, mig=False, healthy=True, index=0)
    found = replace(probe(tmp_path, visible=NO_GPU), gpus=Gpus((unified,)))
    assert ("GPU", "NVIDIA GB10, memory not told", "GPU-1") in list(rows(found))
    (shown,) = as_json(found)["gpus"]
    assert (shown["memory_bytes"], shown["used_bytes"], shown["healthy"]) == (None, None, True)


def test_gpus_are_shown_with_health_and_driver(tmp_path):
    broken = Gpu("GPU-2", "H100", 80 << 30, mig=False, healthy=False, index=1, why="fallen off the bus")
    good = Gpu("GPU-1", "H100", 80 << 30, mig=False, healthy=True, index=0)
    found = replace(probe(tmp_path, visible=NO_GPU), gpus=Gpus((good, broken), "550.1", "12.4", "GPU-2 is lost", "MPS"))
    lines = list(rows(found))
    assert ("GPU", "H100, 80 GiB", "GPU-1") in lines
    assert ("GPU", "H100, 80 GiB, not healthy: fallen off the bus", "GPU-2") in lines
    assert ("  driver", "550.1, CUDA 12.4, shared: MPS", "NVML") in lines
    assert ("  note", "GPU-2 is lost", "") in lines
    assert [gpu["healthy"] for gpu in as_json(found)["gpus"]] == [True, False]
    assert as_json(found)["gpus"][0].keys() >= {"uuid", "name", "memory_bytes", "mig", "healthy"}
