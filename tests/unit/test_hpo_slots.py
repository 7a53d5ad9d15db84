"""What a pod is divided into, and which slot gets a point."""

from pathlib import Path

import pytest

from pilot.payload.environment import Grant
from pilot.payload.sidecar import Sidecar
from pilot.resources.gpu import Gpu
from pilot.runner.hpo.slots import Slots, plan_slots
from pilot.runner.lending import Lent
from pilot.values.job import Job
from pilot.values.settings import Settings

GIB = 1 << 30
EIGHT = tuple(Gpu(f"GPU-{n}", "H100", 80 * GIB, mig=False, healthy=True, index=n) for n in range(8))


def slots(gpus=(), cores=8, memory=64, sidecars=(), command="true", memory_mib=None, job_cores=1, **settings) -> Slots:
    job = Job(1, 1, command, cores=job_cores, memory_mib=memory_mib)
    lent = Lent({}, tuple(gpus), Grant(cores, memory * GIB, 100 * GIB, ",".join(gpu.uuid for gpu in gpus)))
    return plan_slots(job, lent, Settings(**settings), sidecars)


def test_each_gpu_is_a_slot_with_its_share_of_the_rest():
    found = slots(EIGHT, cores=64)
    assert [slot.grant.gpus for slot in found.all] == [gpu.uuid for gpu in EIGHT]
    assert {(slot.grant.cores, slot.grant.memory_bytes) for slot in found.all} == {(8, 8 * GIB)}


def test_several_share_a_gpu_by_setting_and_neighbours_are_on_others():
    found = slots(EIGHT[:2], points_per_gpu=3)
    assert [slot.grant.gpus for slot in found.all] == ["GPU-0", "GPU-1"] * 3


@pytest.mark.parametrize(
    ("more", "count", "cores"),
    [
        ({}, 8, 1),
        ({"job_cores": 4}, 2, 4),
        ({"slot_cores": 3}, 2, 4),
        ({"slots": 2}, 2, 4),
        ({"slots": 16}, 16, 1),
        ({"memory_mib": 16 << 10}, 4, 2),
        ({"cores": 1, "job_cores": 4}, 1, 1),
        ({"command": "cd /srv/workDir && ./run"}, 1, 8),
    ],
    ids=["a core each", "the job's", "setting", "fewer", "more", "memory", "small pod", "hard-coded path"],
)
def test_without_gpus_a_group_of_cores_is_a_slot(more, count, cores):
    found = slots(**more)
    assert (len(found.all), found.all[0].grant.cores) == (count, cores)


def test_each_sidecar_is_a_slot_whatever_memory_the_pilot_itself_has(tmp_path: Path):
    found = slots(EIGHT[:1], memory=1, memory_mib=16 << 10, sidecars=[Sidecar(tmp_path / "a"), Sidecar(tmp_path / "b")])
    assert [(slot.device, slot.grant.gpus) for slot in found.all] == [("a", ""), ("b", "")]


def test_a_point_is_tried_again_in_another_slot_and_waits_for_one():
    found = slots(cores=2)
    first, second = found.all
    assert found.choose({0}) is second
    second.busy = True
    assert found.choose({0}) is None
    found.set_aside(second, "broken")
    assert found.choose({0}) is first


def test_a_slot_is_set_aside_only_if_it_fails_alone():
    found = slots(cores=2)
    first, second = found.all
    for _ in range(5):
        found.failed(first, "why")
    assert not first.aside
    found.succeeded(second)
    found.failed(first, "why")
    assert "and not elsewhere: why" in first.aside
    found.failed(second, "why")
    found.failed(second, "why")
    assert not second.aside


def test_out_of_memory_takes_one_of_those_that_share_a_gpu():
    found = slots(EIGHT[:2], points_per_gpu=2)
    assert found.fewer(found.all[0])
    assert [slot.grant.gpus for slot in found.usable] == ["GPU-1", "GPU-0", "GPU-1"]
    assert not found.fewer(found.all[2])
