"""What a status of the XRootD library means for a transfer."""

from __future__ import annotations

from typing import Any

from pilot.staging.order import plain
from pilot.values.errors import (
    Denied,
    Exists,
    FileMissing,
    Mismatch,
    NoSpace,
    StageError,
    Stalled,
    TransferFailed,
    Unreachable,
)

Status = Any
"""An XRootDStatus."""

_SERVER_SAID = 400
_HAS_ERRNO = (_SERVER_SAID, 402)
_BY_ERRNO: dict[int, type[StageError]] = {
    13: Denied,  # plain errnos of the local side
    28: NoSpace,
    122: NoSpace,
    3003: Unreachable,  # locked: somebody else has it open now
    3008: Unreachable,
    3009: NoSpace,
    3010: Denied,
    3011: FileMissing,
    3012: Unreachable,  # the server's own trouble, such as too many checksums at once
    3014: Unreachable,
    3018: Exists,
    3019: Mismatch,
    3020: Unreachable,
    3021: NoSpace,  # a quota
    3024: Unreachable,
    3025: Denied,
    3028: Denied,  # it wants TLS
    3030: Denied,
    3034: Stalled,
    3035: Stalled,
}
_UNINITIALISED = 11
_BY_CODE: dict[int, type[StageError]] = {
    _UNINITIALISED: Unreachable,  # a second process may have more luck: this one is not used again
    101: Unreachable,
    102: Unreachable,
    103: Stalled,  # connected, and no answer
    104: Unreachable,
    107: Unreachable,
    108: Unreachable,
    109: Unreachable,
    202: Unreachable,
    203: Denied,
    204: Denied,
    206: Stalled,  # also a broken connection: the library reconnects until the limit
    304: FileMissing,
    305: Mismatch,
}

_TLS = 110
_IN_OTHER_WORDS = {
    _TLS: "the TLS handshake failed; most often, the server's certificate is not accepted",
    _UNINITIALISED: "the xrootd library could not start its threads: the limit of processes is reached most likely",
}
"""Where the library's own message leads astray: of TLS it says "resource temporarily unavailable"."""

_FS_ERROR = 3005
_RENDEZVOUS = "tpc authorization expired"
_NAMES_DIFFER = "; the two storages know each other by other names than the URLs have: try full names, or IP addresses"


def check(status: Status, url: str) -> None:
    """Raise what a status means, unless it is a good one."""
    if status.ok:
        return
    number = status.errno if status.code in _HAS_ERRNO else status.code
    text = plain(_IN_OTHER_WORDS.get(number, status.message))
    raise _kind(status, text)(f"{plain(url)}: {text}{_NAMES_DIFFER if _RENDEZVOUS in text else ''} ({number})")


def refused(status: Status) -> bool:
    """Whether the server has understood the question, and just has no answer."""
    return status.code == _SERVER_SAID and status.errno not in _BY_ERRNO


def denied(status: Status) -> bool:
    """Whether the server knows the answer, and not for us."""
    return status.code == _SERVER_SAID and _BY_ERRNO.get(status.errno) is Denied


def _kind(status: Status, text: str) -> type[StageError]:
    if status.code not in _HAS_ERRNO:
        return _BY_CODE.get(status.code, TransferFailed)
    if _RENDEZVOUS in text:
        return TransferFailed  # not a question of rights, though it comes with their number
    if status.errno == _FS_ERROR and "not a directory" in text:
        return FileMissing  # a part of its path is a file
    return _BY_ERRNO.get(status.errno, TransferFailed)
