"""Payloads that do not want to end: ``python zoo.py ANIMAL [FILE [LIMIT]]``. Each ends by itself after a minute.

FILE and LIMIT belong to the bombs: what tells the number of processes, and how many there must be. FILE alone gets the
number of the process that `cleared` leaves behind.
"""

import os
import signal
import sys
import time
from pathlib import Path

END = time.time() + 60


def rest():
    while time.time() < END:
        time.sleep(0.2)
    os._exit(0)


def forked(act):
    pid = os.fork()
    if pid == 0:
        act()
        os._exit(0)
    return pid


def detached():
    """In a session of its own, without a descriptor, and an orphan."""
    os.setsid()

    def vanish():
        os.setsid()
        os.closerange(0, 1024)
        rest()

    forked(vanish)


def daemon():
    os.waitpid(forked(detached), 0)


def cleared():
    """A daemon without any mark: its number is in the file. The leader leaves when that is so."""
    told, telling = os.pipe()  # closed by what it becomes

    def forget():
        os.setsid()
        Path(sys.argv[2]).write_text(str(os.getpid()))
        os.execve(sys.executable, [sys.executable, __file__, "rest"], {})

    os.waitpid(forked(lambda: forked(forget)), 0)
    os.close(telling)
    os.read(told, 1)


def fork_on():
    """Everybody forks without end, and has a session of its own."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while time.time() < END:
        try:
            if os.fork() == 0:
                os.setsid()
        except OSError:
            continue
    os._exit(0)


def bomb():
    """The leader leaves when no process is to be had any more."""
    file, limit = Path(sys.argv[2]), int(sys.argv[3])
    forked(fork_on)
    while time.time() < END and int(file.read_text()) < limit:
        time.sleep(0.01)


def bomb_itself():
    fork_on()


def deaf():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
    rest()


def handover():
    forked(rest)
    os.close(1)


def stopped():
    os.kill(os.getpid(), signal.SIGSTOP)
    rest()


def orphans():
    for _ in range(3):
        forked(rest)


def runaway():
    """Each generation lives just long enough to make the next."""

    def generations():
        while time.time() < END:
            os.setsid()
            if os.fork():
                os._exit(0)

    os.waitpid(forked(lambda: forked(generations)), 0)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
