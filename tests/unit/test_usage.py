"""What samples sum up to, how they are told, and the sampler on processes of our own."""

import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilot.agent.node import architecture, gpu_maps, node_map
from pilot.embedded.selection import Wanted
from pilot.panda.fields import clean
from pilot.payload.sampler import Sampler
from pilot.resources.cpu import Cpu
from pilot.resources.gpu import Gpu, Gpus
from pilot.runner.observing import metrics
from pilot.runner.past import usage_from
from pilot.runner.telling import job_metrics, used
from pilot.values.redaction import Redactor
from pilot.values.usage import GpuUsage, Sample, Usage
from tests.lab import until

MIB = 1 << 20
EMPTY = Sample(0.0, 0, 0.0, 0, 0, 0, 0, 0, 0)


# --- job_metrics

entries = st.dictionaries(
    st.text("abcdefGPU_", min_size=1, max_size=60), st.integers() | st.text("xyz0-_", max_size=300), max_size=30
)


@given(entries, st.integers(1, 600))
def test_metrics_are_whole_entries_in_their_order_below_the_limit(values, most):
    text = job_metrics(values, most)
    whole = [f"{name}={value}" for name, value in values.items()]
    kept = text.split(" ") if text else []
    assert kept == whole[: len(kept)]
    assert len(text) < most
    assert kept == whole or len(" ".join(whole[: len(kept) + 1])) >= most


def test_metrics_tell_no_figure_that_no_gpu_has_told():
    whole = GpuUsage("GPU-1", 3, 50.0, 100 * MIB, 1000.4)
    instance = GpuUsage("MIG-1", 0, None, 20 * MIB, None)
    assert metrics(Usage(samples=3), []) == {"samples": 3}
    assert metrics(Usage(samples=3, gpus=(instance,)), ["N X"]) == {
        "samples": 3, "nGPU": 1, "GPU_name": "N-X", "GPU_memory_MiB": 20,
    }  # fmt: skip
    both = metrics(Usage(samples=3, gpus=(whole, instance)), ["N X", "N X"])
    assert (both["nGPU"], both["GPU_utilisation"], both["GPU_memory_MiB"], both["GPU_energy_J"]) == (2, 50.0, 120, 1000)


# --- what samples sum up to

steps = st.lists(st.tuples(st.floats(0.01, 1000), st.integers(0, 2**40)), min_size=1, max_size=30)


@given(steps)
def test_means_are_weighted_by_time_and_peaks_are_peaks(seen):
    usage, now = Usage(), 0.0
    for seconds, size in seen:
        now += seconds
        usage = usage.after(replace(EMPTY, after_s=now, rss_bytes=size, pss_bytes=size, cpu_s=size))
    mean = sum(seconds * size for seconds, size in seen) / now
    assert usage.avg_rss == pytest.approx(mean, rel=1e-6, abs=1e-6)
    assert usage.avg_pss == usage.avg_rss
    assert usage.max_rss == usage.max_pss == usage.cpu_s == max(size for _, size in seen)
    assert (usage.samples, usage.seconds) == (len(seen), now)


@given(st.lists(st.none() | st.floats(0, 100), min_size=1, max_size=20))
def test_utilisation_is_the_mean_of_those_that_told_one(seen):
    told = [one for one in seen if one is not None]
    first, *later = [GpuUsage("GPU-1", int(one is not None), one, 0, None) for one in seen]
    for one in later:
        first = first.after(one)
    assert first.samples == len(told)
    assert first.utilisation == (pytest.approx(sum(told) / len(told), abs=1e-9) if told else None)


def test_usage_survives_the_journal():
    usage = Usage(samples=1, cpu_s=1.5, gpus=(GpuUsage("GPU-1", 0, None, 5, 3.0),))
    assert usage_from(asdict(usage)) == usage


def test_usage_is_told_in_kib_and_whole_seconds():
    usage = Usage(samples=2, seconds=2.0, cpu_s=3.6, max_rss=10 * MIB, avg_rss=2.5 * MIB, written_bytes=100)
    told = clean(used(usage, 2, Cpu(model="A CPU", avx2=True)), Redactor())
    assert (told["cpu_consumption_time"], told["cpu_consumption_unit"]) == (4, "s+A CPU+AVX2")
    assert (told["max_rss"], told["avg_rss"], told["mean_core_count"]) == (10240, 2560, 2)
    assert (told["tot_wbytes"], told["rate_wbytes"]) == (100, 50)
    assert told["job_metrics"] == "actualCoreCount=2 samples=2"


# --- the sampler


def child(script):
    return subprocess.Popen([sys.executable, "-S", "-c", script], stdout=subprocess.PIPE)


def test_the_sampler_sees_memory_and_cpu_of_its_processes():
    script = (
        "import sys, time; held = b'x' * (64 << 20)\nwhile time.process_time() < 0.3: pass\nprint(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-S", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as one:
        sampler = Sampler(lambda: [one.pid], lambda: 2.0, "")
        one.stdout.readline()
        sample = sampler.look()
        one.stdin.close()
    assert sample.processes == 1
    assert 2.28 <= sample.cpu_s < 2.6
    assert 64 * MIB < sample.pss_bytes <= sample.rss_bytes < 96 * MIB
    assert sample.vmem_bytes > sample.rss_bytes


def test_one_that_has_ended_and_is_not_waited_for_still_counts():
    one = child("import time\nwhile time.process_time() < 0.3: pass")
    living = [one.pid]
    sampler = Sampler(lambda: living, lambda: 0.0, "")
    os.waitid(os.P_PID, one.pid, os.WEXITED | os.WNOWAIT)
    living.clear()
    sample = sampler.look()
    assert (sample.processes, sample.rss_bytes) == (0, 0)
    assert 0.28 <= sample.cpu_s < 0.6
    one.communicate()
    assert sampler.look().cpu_s == 0


def test_looks_cost_a_share_of_a_core_at_most_but_for_the_first():
    """Ours, again and again: as if there were a thousand processes."""
    sampler = Sampler(lambda: [os.getpid()] * 1000, lambda: 0.0, "")
    began = time.process_time()
    intervals = []

    def spent():
        sampler.look()
        intervals.append(sampler.interval_s)
        return time.process_time() - began > 0.2

    until(spent, 30, "some CPU time of looks")
    assert intervals[0] == 0.5, "the first look is free"
    assert intervals[-1] > 10, "later ones are not"


def test_a_control_group_that_is_gone_leaves_the_sum(tmp_path):
    (tmp_path / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    sampler = Sampler(list, lambda: 0.25, str(tmp_path))
    assert sampler.look().cpu_s == 1.5
    (tmp_path / "cpu.stat").unlink()
    assert sampler.look().cpu_s == 0.25


# --- what the server is told of the node, and what it makes of it


def pod(tmp_path):
    queue = SimpleNamespace(site="SITE", name="QUEUE")
    return SimpleNamespace(site=SimpleNamespace(queue=queue), settings=SimpleNamespace(node="node7"), work=tmp_path)


@pytest.mark.parametrize(("level", "told"), [("x86_64-v3", "x86-64-v3"), ("x86_64-v1", "x86-64-v1"), ("", None)])
def test_the_level_is_told_as_the_server_writes_it(tmp_path, level, told):
    cpu = Cpu(model="M" * 200, level=level, mhz=2400, n_logical=8)
    fields = node_map(pod(tmp_path), SimpleNamespace(cpu=cpu))
    assert fields.get("cpu_architecture_level") == told
    assert (fields["clock_speed"], type(fields["clock_speed"])) == (2400.0, float)
    assert len(fields["cpu_model"]) == 128, "a longer one loses the call"
    assert None not in fields.values()


def test_gpus_are_told_by_model_and_ill_ones_are_not_offered(tmp_path):
    good = Gpu("GPU-1", "A", 80 << 30, mig=False, healthy=True, index=0, architecture="Hopper")
    ill = replace(good, uuid="GPU-2", name="B", healthy=False)
    gpus = Gpus((good, replace(good, uuid="GPU-3"), ill), "550.1", "12.4")
    assert [(one["model"], one["count"]) for one in gpu_maps(pod(tmp_path), gpus)] == [("A", 2), ("B", 0)]
    assert architecture(gpus)["gpus"] == [
        {"vendor": "NVIDIA", "model": "A", "count": 2, "vram": 81920, "architecture": "Hopper", "framework": "CUDA",
         "framework_version": "12.4", "driver_version": "550.1"},
    ]  # fmt: skip
    assert architecture(Gpus((ill,))) is None
    assert "vram" not in gpu_maps(pod(tmp_path), gpus)[1], "the server keeps the first figure"


def test_memory_that_a_gpu_does_not_tell_is_not_told(tmp_path):
    unified = Gpu("GPU-1", "A", None, mig=False, healthy=True, index=0)
    (told,) = gpu_maps(pod(tmp_path), Gpus((unified,)))
    assert (told["model"], told["count"], "vram" in told) == ("A", 1, False)
    some = Gpus((unified, replace(unified, uuid="GPU-2", memory_bytes=80 << 30)))
    assert architecture(some)["gpus"][0]["vram"] == 81920


@pytest.mark.parametrize(
    ("has", "asks", "fits"),
    [(0, None, True), (0, 1, False), (1, 1, True), (1, "2", False), (None, 9, True), (0, "many", True), (0, [], True)],
)
def test_a_job_fits_a_pod_that_has_its_gpus(has, asks, fits):
    assert Wanted("Q", 1, gpus=has).fits({"gpus": asks}) is fits
