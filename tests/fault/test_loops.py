"""A seeded sample of the n-th crash loop and of the n-th error loops; `make soak` walks all of their points."""

import os
import random
import shutil

import pytest

from tests.fault.loops import Counted, sample, table, told, trial

SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6))
CRASHES, ERRORS, REQUESTS = 10, 8, 5


@pytest.fixture(scope="module")
def counted():
    """What a run without a fault does."""
    if shutil.which("strace") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("strace is missing")
        pytest.skip("strace is missing")
    return Counted()


@pytest.mark.parametrize(("kind", "most"), [("crash", CRASHES), ("error", ERRORS), ("request", REQUESTS)])
def test_a_job_has_one_true_end_whatever_breaks(counted, kind, most):
    print(f"seed {SEED}: SEED={SEED} pytest tests/fault/test_loops.py")
    results = [trial(point, SEED) for point in sample(kind, most, counted, SEED)]
    print(table(results))
    assert len(results) == most
    broken = [told(one, SEED) for one in results if one.broken]
    assert not broken, "\n\n".join([f"SEED={SEED}", *broken])
