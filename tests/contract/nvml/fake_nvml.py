"""A fake libnvidia-ml.so.1, compiled from fake.c against NVIDIA's own header, that does what a text file says.

The file is read again by each call, so what it says may change under a process that has the library loaded.
"""

import importlib.util
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("fake.c")
LIBRARY = "libnvidia-ml.so.1"

WHOLE = "GPU-11111111-aaaa-4000-8000-000000000000"
PARENT = "GPU-11112222-bbbb-4000-8000-000000000001"
FIRST = "MIG-33333333-cccc-4000-8000-000000000000"
SECOND = "MIG-44444444-dddd-4000-8000-000000000003"

# an H100, and one in MIG mode with instances 0 and 3
TWO_GPUS = f"""\
driver 550.90.07
cuda 12040
gpu {WHOLE} 81559 4
gpu {PARENT} 81559 4 mig
mig 1 0 {FIRST} 9856
mig 1 3 {SECOND} 9856
set utilisation 37
set power_mw 61234
set energy_mj 5000000
set processes 2
"""


def missing() -> str:
    """Why the library cannot be compiled here; "" if it can."""
    if shutil.which("gcc") is None:
        return "no gcc (tests/system-packages.sh installs it)"
    return "" if header() is not None else "no nvml.h (PyPI: nvidia-nvml-dev-cu12)"


def header() -> Path | None:
    """Folder of NVIDIA's nvml.h."""
    try:
        spec = importlib.util.find_spec("nvidia.nvml_dev")
    except ModuleNotFoundError:
        return None
    folders = list(spec.submodule_search_locations or []) if spec else []
    return next((Path(one) / "include" for one in folders if (Path(one) / "include/nvml.h").exists()), None)


def compile_library(folder: Path, *absent: str) -> Path:
    """The library, in ``folder``, without the functions ``absent``; 0.3 s."""
    target = folder / LIBRARY
    renamed = [f"-D{name}=absent_{name}" for name in absent]
    options = ["-Wall", "-Wextra", "-O1", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}", *renamed]
    subprocess.run(
        ["gcc", *options, "-I", str(header()), "-o", str(target), str(SOURCE), "-ldl"], check=True, timeout=60
    )
    return target


class FakeNvml:
    """A copy of the library in a folder of its own, and what it is to do."""

    def __init__(self, library: Path, folder: Path, script: str = TWO_GPUS) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, folder / LIBRARY)
        self.folder = folder
        self.says(script)

    def says(self, script: str, *more: str) -> None:
        """Change what it does from the next call on; readers see the old file or the new one."""
        new = self.folder / "nvml.new"
        new.write_text(script + "".join(f"{line}\n" for line in more))
        new.replace(self.folder / "nvml.txt")
