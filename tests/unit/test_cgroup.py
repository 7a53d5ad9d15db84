"""Limits read from fixture trees; the trees follow the recorded snapshots (container-lab.md section 2)."""

import pytest

from pilot.resources.cgroup import read_limits
from pilot.resources.cpu import read_cpu
from tests.trees import tree

V2 = {"sys/fs/cgroup/cgroup.controllers": "cpu memory pids\n", "proc/self/cgroup": "0::/\n"}
V1_POD = {"proc/self/cgroup": "5:cpu,cpuacct:/kubepods/burstable/pod1/c1\n4:memory:/kubepods/burstable/pod1/c1\n"}


@pytest.mark.parametrize(
    ("files", "version", "quota", "memory"),
    [
        ({}, 0, None, None),
        (
            {**V2, "sys/fs/cgroup/cpu.max": "50000 100000\n", "sys/fs/cgroup/memory.max": "268435456\n"},
            2,
            0.5,
            268435456,
        ),
        ({**V2, "sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n"}, 2, None, None),
        (
            {
                **V1_POD,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "134217728\n",
            },
            1,
            2.5,
            134217728,
        ),
        (
            {
                **V1_POD,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            1,
            None,
            None,
        ),
        (
            {
                **V2,
                "proc/self/cgroup": "0::/outer/inner\n",
                "sys/fs/cgroup/outer/cpu.max": "150000 100000\n",
                "sys/fs/cgroup/outer/memory.max": "1000000\n",
                "sys/fs/cgroup/outer/inner/cpu.max": "max 100000\n",
                "sys/fs/cgroup/outer/inner/memory.max": "2000000\n",
            },
            2,
            1.5,
            1000000,
        ),
    ],
    ids=["none", "v2", "v2 unlimited", "v1 pod", "v1 unlimited", "limit on an ancestor"],
)
def test_limits_of_a_tree(tmp_path, files, version, quota, memory):
    limits = read_limits(tree(tmp_path, files))
    assert (limits.version, limits.quota, limits.memory_bytes) == (version, quota, memory)


@pytest.mark.parametrize(
    ("flags", "level", "unit"),
    [
        ("lm sse2", "x86_64-v1", "s+EPYC"),
        ("lm cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3", "x86_64-v2", "s+EPYC"),
        (
            "lm cx16 lahf_lm popcnt sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
            "x86_64-v3",
            "s+EPYC+AVX2",
        ),
        ("lm avx2", "x86_64-v1", "s+EPYC+AVX2"),
    ],
)
def test_the_processor_is_told_by_its_flags(tmp_path, flags, level, unit):
    cpu = read_cpu(tree(tmp_path, {"proc/cpuinfo": f"model name\t: EPYC\nflags\t\t: {flags}\n\nmodel name: other\n"}))
    assert (cpu.level, cpu.unit) == (level, unit)


def test_an_unknown_processor_is_no_error(tmp_path):
    assert read_cpu(tmp_path).unit == "s"
