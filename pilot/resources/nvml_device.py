"""Calls of NVML, and one device that is asked by them; for the process of `pilot.resources.nvml` only."""

from __future__ import annotations

from typing import Any

import pynvml

from pilot.processes.child import Answers
from pilot.resources.nvml_errors import OLDER, ORDINARY, UNREADABLE, Failed, Says

MOST = 256  # devices: a count beyond is no count


class Library:
    """Calls NVML, and tells the parent of each call before it is made."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._open = False

    def open(self) -> None:
        """Load and initialise it, once. Raises `Failed`."""
        if not self._open:
            self.call("nvmlInit")
            self._open = True

    def call(self, name: str, *arguments: Any, where: str = "") -> Any:
        """The result of pynvml's function ``name``. Raises `Failed`."""
        self._answers.send({"at": f"{name} of {where}" if where else name})
        try:
            return getattr(pynvml, name)(*arguments)
        except pynvml.NVMLError as error:
            if error.value == pynvml.NVML_ERROR_UNINITIALIZED:
                self._open = False  # the next message opens it again
            raise Failed(name, where, error.value) from None
        except (ValueError, MemoryError):  # a text that is none, a length that cannot be
            raise Failed(name, where, UNREADABLE) from None


class Asked:
    """One device and what it has been asked. A figure that it does not have, or does not tell now, is None.

    ``why`` is why it is not healthy, ``lost`` whether that is the end of what runs on it. One that is lost is not
    asked again: the library has crashed on that. ``refused`` is the first refusal that is not due to its kind.
    """

    def __init__(self, library: Library, handle: Any, where: str) -> None:
        self.handle = handle
        self.where = where
        self.why = ""
        self.refused = ""
        self.lost = False
        self._last: Failed | None = None
        self._library = library

    def may(self, name: str, *arguments: Any) -> Any:
        """A figure; a refusal counts for what it says of the device."""
        if self.lost:
            return None
        try:
            return self._library.call(name, self.handle, *arguments, where=self.where)
        except Failed as failed:
            self._note(failed)
            return None

    def uuid(self) -> str:
        """Its UUID, without which it cannot be given to a job: "" makes it unhealthy."""
        found: str | None = self.may("nvmlDeviceGetUUID")
        if not found and not self.why:
            self.why = str(self._last or "it has no UUID")
        return found or ""

    def memory(self) -> tuple[int | None, int | None]:
        """Total and used bytes; both None where the GPU has no memory of its own, as GB10.

        What the driver keeps for itself is not used, where version 2 of the call tells it. Used is worked out:
        nvml.h and the drivers differ in whether version 2's ``used`` holds ``reserved``.
        """
        found = self.may("nvmlDeviceGetMemoryInfo", pynvml.nvmlMemory_v2)
        if found is not None and found.total:
            return found.total, max(0, found.total - found.free - found.reserved)
        if found is None and self._last is not None and self._last.code not in OLDER:
            return None, None  # refused this once: version 1 would say more than before, as if somebody had come
        found = self.may("nvmlDeviceGetMemoryInfo")
        return (None, None) if found is None or not found.total else (found.total, min(found.used, found.total))

    def _note(self, failed: Failed) -> None:
        self._last = failed
        self.lost = failed.says is Says.LOST
        if self.lost or (failed.says is Says.UNFIT and not self.why):
            self.why = str(failed)
        if failed.code not in ORDINARY:
            self.refused = self.refused or str(failed)
