"""A payload that looks into every other process of its uid, until the helper that it was told of is closed to it.

A helper is open until its interpreter has come to its first line, the pilot never is.
"""

PEEP = r"""
import ctypes, json, os, subprocess, sys, time

def cmdline(pid):
    try:
        return open(f"/proc/{pid}/cmdline").read().split("\0")
    except OSError:
        return []

def look(pid):
    got = []
    for name in ("environ", "mem", "maps"):
        try:
            with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
                if name == "mem":
                    got.append(name)
                elif file.read(100):
                    got.append(name)
        except OSError:
            pass
    try:
        for one in os.listdir(f"/proc/{pid}/fd"):
            os.readlink(f"/proc/{pid}/fd/{one}")
            got.append("fd")
    except OSError:
        pass
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, 0, 0) == 0:  # PTRACE_ATTACH
        got.append("ptrace")
        os.waitpid(pid, 0x40000000)
        libc.ptrace(17, pid, 0, 0)
    return sorted(set(got))

def ours(pid):
    try:
        text = open(f"/proc/{pid}/status").read()
    except OSError:
        return False
    return f"Uid:\t{os.getuid()}\t" in text

def name_of(pid):
    words = cmdline(pid)
    if "-m" in words:
        at = words.index("-m")
        return " ".join(words[at + 1:at + 3]) if words[at + 1] == "pilot" else words[at + 1]
    return None

seen, end = {}, time.monotonic() + 10
own = subprocess.Popen(["sleep", "60"])
seen["own child"] = [look(own.pid)]
own.kill()
while time.monotonic() < end:
    for pid in [int(one) for one in os.listdir("/proc") if one.isdigit()]:
        if ours(pid) and name_of(pid) and pid != os.getpid():
            seen.setdefault(name_of(pid), []).append(look(pid))
    if seen.get(sys.argv[2], [1])[-1] == [] and "pilot run" in seen:
        break
    time.sleep(0.001)
json.dump(seen, open(sys.argv[1], "w"))
"""
