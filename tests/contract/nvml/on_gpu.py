"""On a machine with a GPU: what the pilot finds beside what nvidia-smi says, and samples of a GPU that works.

    PYTHONPATH=.:FOLDER_OF_pynvml.py python3 tests/contract/nvml/on_gpu.py --seconds 20

Needs Python 3.11, pynvml.py, and the driver; no CUDA toolkit. Prints one JSON object; exit status 1 if anything
does not agree.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict

from pilot.resources.gpu import GpuSampler, choose, cuda_visible, find_gpus, unhealthy
from pilot.resources.visible import Visible

ASKED = ("uuid", "name", "memory.total", "memory.used", "driver_version", "mig.mode.current")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20, help="how long the GPU is kept busy; 0: not at all")
    parser.add_argument("--burn", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.burn:
        return burn(arguments.seconds)
    visible = Visible.of(os.environ)
    started = time.monotonic()
    gpus = find_gpus(visible)
    report = {
        "environment": asdict(visible),
        "find_gpus": gpus.as_json(),
        "find_gpus_s": round(time.monotonic() - started, 3),
        "unhealthy": unhealthy(gpus, [device.uuid for device in gpus.devices]),
        "nvidia_smi": nvidia_smi(),
    }
    checks = compare(gpus, report["nvidia_smi"])
    if arguments.seconds and gpus.devices:
        report |= sample(gpus, visible, arguments.seconds)
        checks |= judge(report["samples"], gpus.devices[0].mig)
    report["checks"] = checks
    print(json.dumps(report, indent=1))
    return 0 if checks and all(checks.values()) else 1


def nvidia_smi() -> list[dict[str, str]]:
    """One object per GPU; sizes in MiB."""
    command = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.SubprocessError) as error:
        return [{"error": str(error)}]
    return [dict(zip(ASKED, line.split(", "), strict=True)) for line in lines]


def compare(gpus, smi) -> dict[str, bool]:
    """What must agree. A GPU in MIG mode is there as its instances."""
    whole = {device.uuid: device for device in gpus.devices if not device.mig}
    named = {device.parent or device.uuid for device in gpus.devices}
    checks = {"uuids": named == {row.get("uuid") for row in smi}}
    checks["driver"] = {gpus.driver} == {row.get("driver_version") for row in smi}
    for row in smi:
        device = whole.get(row.get("uuid"))
        if device is not None:
            if device.memory_bytes is not None:
                checks[f"memory of {device.uuid}"] = str(device.memory_bytes >> 20) == row["memory.total"]
            if device.used_bytes is not None:  # unified memory: neither tells it
                checks[f"used memory of {device.uuid}"] = abs((device.used_bytes >> 20) - int(row["memory.used"])) <= 64
            checks[f"name of {device.uuid}"] = device.name == row["name"]
    return checks


def sample(gpus, visible, seconds: float) -> dict:
    """A sample per second of one device that works, and one after it."""
    devices = choose(gpus, 1)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": cuda_visible(devices)}
    sampler = GpuSampler(visible, [device.uuid for device in devices])
    samples = [sampler.sample()]
    command = [sys.executable, __file__, "--burn", "--seconds", str(seconds)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as burning:
        while burning.poll() is None:
            time.sleep(1)
            samples.append(sampler.sample())
        said = burning.stdout.read().strip()
    samples.append(sampler.sample())
    started = time.monotonic()
    samples.append(sampler.sample())
    one_s = time.monotonic() - started
    sampler.close()
    found = [asdict(one) for row in samples for one in row]
    return {
        "burn": said,
        "samples": found,
        "sample_s": round(one_s, 4),
        "find_gpus_after": find_gpus(visible).as_json(),
    }


def judge(samples, mig: bool) -> dict[str, bool]:
    """A MIG instance tells neither utilisation nor energy."""
    checks = {
        "nothing lost": not any(one["lost"] for one in samples),
        "memory seen": max(one["used_bytes"] or 0 for one in samples) >= 1 << 30,
    }
    if not mig:
        checks["utilisation"] = max(one["utilisation"] or 0 for one in samples) > 0
        checks["energy"] = (samples[-1]["energy_j"] or 0) > 0
    return checks


def burn(seconds: float) -> int:
    """Fill 1 GiB again and again, through the driver's own library."""
    cuda = ctypes.CDLL("libcuda.so.1")

    def call(name, *values) -> None:
        if status := getattr(cuda, name)(*values):
            raise SystemExit(f"{name}: CUDA error {status}")

    device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
    call("cuInit", 0)
    call("cuDeviceGet", ctypes.byref(device), 0)
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    call("cuCtxSetCurrent", context)
    call("cuMemAlloc_v2", ctypes.byref(memory), ctypes.c_size_t(1 << 30))
    until, fills = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        for _ in range(100):
            call("cuMemsetD32_v2", memory, fills & 0xFFFFFFFF, ctypes.c_size_t(1 << 28))
        call("cuCtxSynchronize")
        fills += 100
    print(f"filled 1 GiB {fills} times")
    return 0


if __name__ == "__main__":
    sys.exit(main())
