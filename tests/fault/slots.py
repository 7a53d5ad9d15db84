"""Eight payloads at once, as one pilot runs them: ``python slots.py SCENARIO FOLDER [ANIMAL]`` prints what came out.

SCENARIO is a function below. The payload under test has slot 0; each of its neighbours has a child and an orphan, and
waits for a word of ours, upon which it ends with an exit code and an output of its own.
"""

import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from uuid import uuid4

from pilot.files.folder import Folder
from pilot.payload.process import PayloadProcess
from pilot.payload.procfs import look
from pilot.payload.tree import Strays, become_subreaper
from pilot.values.deadline import Deadline
from tests.lab import until

SLOTS = 8
ZOO = Path(__file__).with_name("zoo.py")
NEIGHBOUR = """
sleep 600 & child=$!
(setsid sleep 600 & echo $! >orphan)
(setsid true &) | cat
echo $child >child
read word <fifo
kill $child
wait $child
echo "$word"
exit {code}
"""


def alive(pid):
    process = look(pid)
    return process is not None and process.alive


class Slots:
    """The payloads that run."""

    def __init__(self, folder):
        self.folder = folder
        self.running = {}
        self.strays = Strays(self.pids)

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        """Of a scenario that has failed nobody stays."""
        for number in tuple(self.running):
            self.running[number].kill()
            self.collect(number)

    def pids(self):
        return [process.pid for process in self.running.values()]

    def start(self, number, text):
        work = self.folder / str(number)
        work.mkdir(exist_ok=True)
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        self.running[number] = PayloadProcess(
            text, work, environment, Folder.at(work).create("stdout"), Folder.at(work).create("stderr"),
            mark=uuid4().hex, ours=self.pids, alone=False, leftovers_s=0.2,
        )  # fmt: skip
        return self.running[number]

    def wait(self, number):
        assert self.running[number].wait(Deadline.after(30)), number

    def collect(self, number):
        """Exit code, leftovers, survivors."""
        end = self.running[number].collect(Deadline.after(20))
        del self.running[number]
        return [end.exit_code, end.leftovers, end.survivors]

    def neighbours(self):
        """Start them all; the pids of each: leader, child, orphan."""
        for number in range(1, SLOTS):
            (self.folder / str(number)).mkdir()
            os.mkfifo(self.folder / str(number) / "fifo")
            self.start(number, NEIGHBOUR.format(code=10 + number))
        return {number: self.family(number) for number in range(1, SLOTS)}

    def family(self, number):
        work = self.folder / str(number)
        pids = [until(lambda name=name: _number(work / name), what=name) for name in ("child", "orphan")]
        return [self.running[number].pid, *pids]

    def finish(self, families):
        """Let the neighbours end: for each, its end, its output, and which of its processes still live."""
        found = {}
        for number, pids in families.items():
            with (self.folder / str(number) / "fifo").open("w") as fifo:
                fifo.write(f"word {number}\n")
            self.wait(number)
            end = self.collect(number)
            output = (self.folder / str(number) / "stdout").read_text()
            found[number] = [*end, output, [pid for pid in pids if alive(pid)]]
        return found


def _number(file):
    return int(file.read_text().strip() or 0) if file.exists() else 0


def zoo(*arguments):
    return "exec " + shlex.join([sys.executable, str(ZOO), *map(str, arguments)])


def animal(slots, folder, name):
    """An animal ends, or is stopped; then the neighbours."""
    families = slots.neighbours()
    process = slots.start(0, zoo(name))
    if name in ("deaf", "stopped"):
        told = {"deaf": (folder / "0/stdout").read_text, "stopped": lambda: look(process.pid).state == "T"}
        until(told[name], what=name)
        process.stop(Deadline.after(0.2))
    else:
        slots.wait(0)
    end = slots.collect(0)
    dead = [pid for pids in families.values() for pid in pids if not alive(pid)]
    carriers = _carriers(process.proof.mark)
    return {"end": end, "dead": dead, "carriers": carriers, "neighbours": slots.finish(families), **_sweep(slots)}


def cleared(slots, folder, _):
    """A daemon that nothing proves lives until nobody runs any more."""
    families = slots.neighbours()
    pid_file = folder / "pid"
    slots.start(0, zoo("cleared", pid_file))
    slots.wait(0)
    end = slots.collect(0)
    pid = int(pid_file.read_text())
    after = alive(pid)
    neighbours = slots.finish(families)
    return {"end": end, "after": after, "neighbours": neighbours, **_sweep(slots), "at last": alive(pid)}


def seen(slots, folder, _):
    """A process without a mark is the payload's if it was seen below it."""
    families = slots.neighbours()
    (folder / "0").mkdir()
    os.mkfifo(folder / "0/fifo")
    process = slots.start(0, "env -i setsid sleep 600 & echo $! >pid; read word <fifo; exit 3")
    pid = until(lambda: _number(folder / "0/pid"), what="the pid")
    until(lambda: not Path(f"/proc/{pid}/environ").read_bytes(), what="an empty environment")
    until(lambda: pid in process.living(), what="a look")
    (folder / "0/fifo").write_text("go\n")
    slots.wait(0)
    end = slots.collect(0)
    return {"end": end, "alive": alive(pid), "neighbours": slots.finish(families), **_sweep(slots)}


def told(slots, _folder, _animal):
    """A signal reaches the whole tree of one slot, which is empty when all of it has obeyed."""
    families = slots.neighbours()
    text = "sh -c 'trap \"echo saved; exit 0\" TERM; echo ready; while :; do sleep 0.05; done'; exit 1"
    process = slots.start(0, text)
    until((slots.folder / "0/stdout").read_text, what="the child")
    before = [process.ended(), process.empty()]
    process.tell(signal.SIGTERM)
    until(process.empty, what="an empty tree")
    output = (slots.folder / "0/stdout").read_text()
    end = slots.collect(0)
    dead = [pid for pids in families.values() for pid in pids if not alive(pid)]
    return {"before": before, "output": output, "end": end, "dead": dead, "neighbours": slots.finish(families)}


def killed(slots, _folder, _animal):
    """One slot is killed, with its orphan and with no other."""
    families = slots.neighbours()
    victims = families.pop(3)
    slots.running[3].kill()
    end = slots.collect(3)
    dead = [pid for pids in families.values() for pid in pids if not alive(pid)]
    left = [pid for pid in victims if alive(pid)]
    return {"end": end, "left": left, "dead": dead, "neighbours": slots.finish(families), **_sweep(slots)}


def at_once(slots, _folder, _animal):
    """All of them have ended before the first is collected."""
    for number in range(SLOTS):
        slots.start(number, f"(setsid true &) | cat; (exit 3 &) | cat; echo {number}; exit {number}")
    for number in range(SLOTS):
        slots.wait(number)
    slots.strays.reap()
    ends = {number: slots.collect(number) for number in reversed(range(SLOTS))}
    outputs = [(slots.folder / str(number) / "stdout").read_text() for number in range(SLOTS)]
    return {"ends": ends, "outputs": outputs, **_sweep(slots)}


def busy(slots, _folder, _animal):
    """Clean ends beside a neighbour whose orphans end all the time."""
    slots.start(1, "while :; do (setsid true &); done")
    ends = []
    for _ in range(20):
        slots.start(0, "exit 5")
        slots.wait(0)
        ends.append(slots.collect(0))
    running = not slots.running[1].ended()
    slots.running[1].kill()
    return {"ends": ends, "running": running, "other": slots.collect(1)[0], **_sweep(slots)}


def measure(slots, _folder, _animal):
    """Milliseconds of start, wait and collect of ``true``, and of collect, beside seven others: median and worst."""
    slots.neighbours()
    whole, part, ends = [], [], []
    for _ in range(30):
        began = time.perf_counter()
        slots.start(0, "true")
        slots.wait(0)
        ended = time.perf_counter()
        ends.append(slots.collect(0))
        part.append(1000 * (time.perf_counter() - ended))
        whole.append(1000 * (time.perf_counter() - began))
    for number in tuple(slots.running):
        slots.running[number].kill()
        slots.collect(number)
    figures = {"whole": [sorted(whole)[15], max(whole)], "collect": [sorted(part)[15], max(part)]}
    processes = sum(one.name.isdigit() for one in Path("/proc").iterdir())
    return {"ends": ends, "ms": figures, "processes": processes, **_sweep(slots)}


def _sweep(slots):
    """What nobody has claimed, and whether we have any child then."""
    found, survivors = slots.strays.sweep(Deadline.after(20), 0.2)
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return {"swept": [found, len(survivors)], "children": len(children)}


def _carriers(mark):
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


if __name__ == "__main__":
    scenario, place, *rest = sys.argv[1:]
    if "--no-orphans" not in rest:
        assert become_subreaper()
    with Slots(Path(place)) as all_slots:
        answer = globals()[scenario](all_slots, Path(place), *rest[:1])
    print(json.dumps(answer))
