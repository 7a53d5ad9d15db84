"""Runs the cases of some borders, in a process of its own: ``fuzzing.py values|answers FOLDER``.

A case may take the memory and the time of the process, and more than that is its end: what it was at stands in
``FOLDER/at``, and its stack on stderr. What is wrong with other cases goes to stdout, as one JSON object a line.

SEED=N takes other cases than always, SOAK=1 thirty times as many, CASE="border:number" that one alone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import json
import os
import resource
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pilot.values.errors import PilotError
from tests.hostile.borders import Border, borders
from tests.hostile.fuzz import Mutator, Unspoilt
from tests.hostile.web_borders import web_borders

SEED = os.environ.get("SEED", "13")
TIMES = 30 if os.environ.get("SOAK") else 1
ONLY = os.environ.get("CASE", "")

HANG_S = 30.0
MOST_BYTES = 768 << 20
"""What the cases may take of memory beside what is used before them."""

ENOUGH = 20
KEPT = 8
"""Connections that stay open, and the output of an evaluation."""

_LONGEST = 2000


def complaint(border: Border, case: Mutator) -> str:
    """What is wrong with the end of a case; "" for nothing."""
    made = border.make(case)
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    try:
        value = border.read(made)
    except border.refusals as error:
        return _wording(error)
    except BaseException:  # noqa: BLE001 - whatever it is, it is the finding
        return traceback.format_exc(limit=-6)
    finally:
        faulthandler.cancel_dump_traceback_later()
    return border.look(value)


def _wording(error: Exception) -> str:
    """A refusal is a line for people, and one that they can read."""
    text = str(error)
    if not isinstance(error, PilotError | ValueError) or "Traceback" in text:
        return f"no refusal of ours: {type(error)}"
    return f"too long: {ascii(text)[:300]}" if len(text) > _LONGEST else ""


def timed(border: Border, case: Callable[[], Mutator]) -> str:
    """The complaint. A slow case is tried once more: others may have had the machine."""
    took = 0.0
    for _ in range(2):
        mutator, began = case(), time.monotonic()
        found = complaint(border, mutator)
        took = time.monotonic() - began
        if found or took < border.slow_s:
            return found
    return f"took {took:.1f} s"


def run(several: Sequence[Border], at: Path) -> None:
    """All cases of these borders, and before them the examples as they are, which nobody may refuse."""
    here = os.open(at, os.O_WRONLY | os.O_CREAT, 0o600)
    for border in several:
        if not any(_is_understood(border, number) for number in range(20)):
            _say(case=border.name, what="its own examples are refused")
        numbers: Sequence[int] = range(border.cases * TIMES)
        if ONLY:
            name, _, only = ONLY.rpartition(":")
            numbers = [int(only)] if name == border.name else []
        began, complaints = time.monotonic(), 0
        for number in numbers:
            name = f"{border.name}:{number}"
            os.pwrite(here, f"{name}\n{' ' * 80}".encode(), 0)
            if text := timed(border, lambda: Mutator(f"{SEED} {name}")):  # noqa: B023 - used at once
                _say(case=name, what=text)
                complaints += 1
                if complaints == ENOUGH:
                    break
        _say(border=border.name, cases=len(numbers), seconds=round(time.monotonic() - began, 2))


def _is_understood(border: Border, number: int) -> bool:
    with contextlib.suppress(*border.refusals):
        border.read(border.make(Unspoilt(number)))
        return True
    return False


def _say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """No more memory than this, and no thread that stays."""
    threading.stack_size(1 << 20)
    size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (size + MOST_BYTES, size + MOST_BYTES))
    threads, descriptors = set(threading.enumerate()), _descriptors()
    yield
    gc.collect()
    if lost := set(threading.enumerate()) ^ threads:
        _say(case="threads", what=f"more or less than before: {lost}")
    if _descriptors() > descriptors + KEPT:
        _say(case="descriptors", what=f"{descriptors} before, and now {_descriptors()}")


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def main() -> None:
    """See above."""
    warnings.simplefilter("ignore")  # regular expressions of settings may look odd
    folder = Path(sys.argv[2])
    if sys.argv[1] == "values":
        with limited():
            run(borders(folder), folder / "at")
    else:
        with limited(), web_borders(folder) as (several, server):
            run(several, folder / "at")
            if not server.alive:
                _say(case="server", what="the server of the test has ended")


if __name__ == "__main__":
    main()
