"""Seeded schedules of faults over the runner and the reporter; each is judged by the checker, and by what it knows.

A schedule is a seed. From it: a job, a fault script for the embedded server, and the lives of a pilot, each with what
happens at which of its points. A point is a journal record, a request or a transfer, before it and after it. Real are
the loop of the agent, runner, recovery, reporter, journal, payload process, and the embedded server's application;
injected are clock, transport and lanes. The reporter runs only while main waits, and time passes only then: a seed
gives the same schedule again, but for the moment at which a real payload ends.

`python -m tests.fault.schedules --schedules N --seed S` prints each violation with its seed, and exits with 1 if there
was one. `--broken NAME` puts a runner in that breaks a promise, and exits with 1 if it is not caught.

From the seed to the verdict: script.py, world.py with server.py and injected.py, judge.py; broken.py has the runners
that must be caught.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from pilot.payload.tree import become_subreaper
from tests.fault.schedules.broken import BROKEN, first_caught
from tests.fault.schedules.judge import quiet, run
from tests.fault.schedules.script import script_of


def main(arguments: list[str] | None = None) -> int:
    """The program: prints what was found and returns the exit code."""
    parser = argparse.ArgumentParser(prog="tests.fault.schedules", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--schedules", type=int, default=10_000, metavar="N", help="how many (10000)")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="the first one's seed (1)")
    parser.add_argument("--broken", choices=[*BROKEN, "all"], help="a runner that must be caught")
    options = parser.parse_args(arguments)
    seeds = range(options.seed, options.seed + options.schedules)
    become_subreaper()  # as every pilot does
    with quiet():
        if options.broken:
            names = list(BROKEN) if options.broken == "all" else [options.broken]
            return max(_catch(name, seeds) for name in names)
        return _soak(seeds)


def _catch(name: str, seeds: range) -> int:
    count, found = first_caught(BROKEN[name], seeds)
    if not found:
        print(f"{name}: NOT CAUGHT in {count} schedules", flush=True)
        return 1
    print(f"{name}: caught after {count} schedules", *found, sep="\n    ", flush=True)
    return 0


def _soak(seeds: range) -> int:
    began, bad = time.monotonic(), 0
    met: Counter[str] = Counter()
    states: Counter[str] = Counter()
    for seed in seeds:
        result = run(script_of(seed), seed)
        met.update(result.met)
        states.update(str(one.state) for one in result.attempts)
        bad += bool(result.violations)
        for one in result.violations:
            print(f"seed {seed}: {one}", flush=True)
    took = time.monotonic() - began
    print(f"met: {', '.join(f'{name} {count}' for name, count in met.most_common())}")
    print(f"jobs: {', '.join(f'{name} {count}' for name, count in states.most_common())}")
    print(f"{len(seeds)} schedules, {bad} with violations, {took:.0f} s, {len(seeds) / took:.1f} schedules/s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
