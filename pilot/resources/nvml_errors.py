"""What each of NVML's refusals says of the device that was asked: a closed table of nvml.h's ``nvmlReturn_enum``.

Most say something of the question, of the library, or of the moment: then one figure is not told, and no more. For
the process of `pilot.resources.nvml` only.
"""

from __future__ import annotations

from enum import Enum

import pynvml


class Says(Enum):
    """What follows for the device."""

    NOTHING = "only this figure is not told"
    UNFIT = "no job should be started on it, but one that runs may well go on"
    LOST = "what runs on it cannot succeed"


UNREADABLE = -1  # ours: an answer that is no answer, such as a name that is no text
NOT_THERE = {  # of a UUID: there is none such; of an index: there are fewer since they were counted
    pynvml.NVML_ERROR_NOT_FOUND,
    pynvml.NVML_ERROR_GPU_NOT_FOUND,
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
}
NOT_OURS = {*NOT_THERE, pynvml.NVML_ERROR_NO_PERMISSION}
ORDINARY = {pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND}  # of this kind, or this driver
OLDER = {  # this driver, or this kind, may know the question's older version only
    *ORDINARY,
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    pynvml.NVML_ERROR_DEPRECATED,
}
_UNTOLD = "NVML refuses"

CODES: dict[int, tuple[Says, str]] = {
    UNREADABLE: (Says.NOTHING, "an answer that cannot be read"),
    # Of our process: the library has been shut down, or was not opened.
    pynvml.NVML_ERROR_UNINITIALIZED: (Says.NOTHING, "NVML is not initialised"),
    pynvml.NVML_ERROR_ALREADY_INITIALIZED: (Says.NOTHING, "NVML is initialised already"),
    # Of the question, or of what this kind of device, driver, or library can tell: unified memory has no figure of its
    # own (3), a MIG instance's GPU tells nothing to those who may use the instance only (4).
    pynvml.NVML_ERROR_INVALID_ARGUMENT: (Says.NOTHING, "an argument is invalid"),
    pynvml.NVML_ERROR_NOT_SUPPORTED: (Says.NOTHING, "not supported"),
    pynvml.NVML_ERROR_NO_PERMISSION: (Says.NOTHING, "no permission"),
    pynvml.NVML_ERROR_INSUFFICIENT_SIZE: (Says.NOTHING, "the answer is too long"),
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND: (Says.NOTHING, "this libnvidia-ml.so.1 does not have the function"),
    pynvml.NVML_ERROR_VGPU_ECC_NOT_SUPPORTED: (Says.NOTHING, "not supported with ECC"),
    pynvml.NVML_ERROR_FREQ_NOT_SUPPORTED: (Says.NOTHING, "the frequency is not supported"),
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: (Says.NOTHING, "the argument's version is not supported"),
    pynvml.NVML_ERROR_DEPRECATED: (Says.NOTHING, "the function is deprecated"),
    pynvml.NVML_ERROR_NO_DATA: (Says.NOTHING, "no data"),
    # "An object": a process, a MIG instance in a hole of the numbers. A device that is not found by its UUID is gone,
    # which `pilot.resources.nvml` makes sure of.
    pynvml.NVML_ERROR_NOT_FOUND: (Says.NOTHING, "not found"),
    pynvml.NVML_ERROR_GPU_NOT_FOUND: (Says.NOTHING, "no GPU was found"),
    # Of the moment: the next question may be answered.
    pynvml.NVML_ERROR_TIMEOUT: (Says.NOTHING, "timeout in the driver"),
    pynvml.NVML_ERROR_IN_USE: (Says.NOTHING, "the GPU is in use"),
    pynvml.NVML_ERROR_MEMORY: (Says.NOTHING, "the machine's memory is short"),
    pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES: (Says.NOTHING, "resources are short"),
    pynvml.NVML_ERROR_NOT_READY: (Says.NOTHING, "the system is not ready"),
    pynvml.NVML_ERROR_INVALID_STATE: (Says.NOTHING, "not in a state for this question"),
    # "On any unexpected error", of every function: also of figures that a model never tells.
    pynvml.NVML_ERROR_UNKNOWN: (Says.NOTHING, "unknown error of the driver"),
    # Of the library.
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (Says.NOTHING, "libnvidia-ml.so.1 cannot be loaded"),
    # The device cannot be opened anew, or not be trusted; who has it open computes on.
    pynvml.NVML_ERROR_INSUFFICIENT_POWER: (Says.UNFIT, "its power cables are not properly attached"),
    pynvml.NVML_ERROR_IRQ_ISSUE: (Says.UNFIT, "the kernel sees interrupt trouble"),
    pynvml.NVML_ERROR_CORRUPTED_INFOROM: (Says.UNFIT, "its infoROM is corrupted"),  # its record of memory errors
    pynvml.NVML_ERROR_OPERATING_SYSTEM: (Says.UNFIT, "the operating system blocks it"),  # since it was opened
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        Says.UNFIT,
        "library and kernel module are of different driver versions",
    ),
    # Nobody can use it any more. The driver is gone only when nobody has a device open.
    pynvml.NVML_ERROR_GPU_IS_LOST: (Says.LOST, "it is lost (fallen off the bus)"),
    pynvml.NVML_ERROR_RESET_REQUIRED: (Says.LOST, "it needs a reset"),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (Says.LOST, "the NVIDIA driver is not loaded"),
}


class Failed(Exception):
    """A call that did not give what was asked for; ``code`` is NVML's, ``says`` what it means for the device."""

    def __init__(self, name: str, where: str, code: int) -> None:
        self.says, words = CODES.get(code, (Says.NOTHING, _UNTOLD))
        super().__init__(f"{words} ({name}{' of ' if where else ''}{where}: {code})")
        self.code = code


class Gone(Failed):
    """A device that is not there any more, though what it said, or was said of it, may mean less."""

    def __init__(self, failed: Failed) -> None:
        Exception.__init__(self, str(failed))
        self.code, self.says = failed.code, Says.LOST
