"""Every error that the pilot raises on purpose.

::

    PilotError
    ├── UsageError          wrong settings or arguments            exit 78
    ├── SiteError           this site, queue or node cannot work   exit 64
    ├── CredentialError     missing, expired or refused            exit 80
    ├── Garbled             JSON of others that breaks the rules   (NotJson: that is none)
    ├── ServerError         one call to the PanDA server failed
    │   ├── ServerUnavailable   try again: refused, reset, timed out, 5xx, StatusCode 10 or 30
    │   ├── ServerGarbled       try again: the answer could not be read
    │   └── ServerRefused       do not try again: the server understood and said no
    └── JobError            the job fails, with a PanDA error code
        ├── BadJob              the definition is not well formed
        ├── ResourceError       the job asks for more than the pod has
        ├── InputsTooLarge      its inputs are larger than the queue allows
        ├── NoPayloadCredential the credential that payloads get here is not there
        ├── NoWorkDirectory     no directory could be made for it
        ├── JournalBroken       what is done could not be recorded
        ├── GpuLost             a GPU of the job is no more
        ├── NoImage             its evaluations want a container image that cannot be had
        ├── PointsRefused       nobody gives us hyper-parameter points, or takes their losses
        ├── LeaseUnknown        nobody can tell whether the job is still ours
        ├── PilotKilled         the pilot died with it, and told nobody (OutOfMemory: of that)
        ├── InternalError       a fault of the pilot itself
        ├── StageError          a file could not be moved (FileMissing, Mismatch, Stalled,
        │                       NoSpace, Denied, NoCredential, Exists, Unreachable, TransferFailed)
        ├── PayloadError        the payload failed (PayloadFailed, DiskFull, PayloadNotStarted, EvaluationsFailed,
        │                       OutputMissing, OutputTooLarge)
        └── Stopped             somebody asked for a stop (GivenAway: the attempt is not ours any more)

A step raises; an error is caught where a decision is taken, and nowhere else. The codes are those of
panda-protocol.md section 16: a site's retry rules hang on them, so changing one is a breaking change.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, Literal


class Blame(StrEnum):
    """Whose fault an error is, as far as the pilot can tell."""

    USER = "user"
    SITE = "site"
    PILOT = "pilot"
    SERVER = "server"


class PilotError(Exception):
    """The root: its text is one line that says what, where, and what to do."""

    exit_code: ClassVar[int] = 1


class UsageError(PilotError):
    """Wrong settings or arguments."""

    exit_code = 78


class SiteError(PilotError):
    """This site, queue or node cannot run jobs."""

    exit_code = 64


class CredentialError(PilotError):
    """The pilot's own credential is missing, expired, or was refused."""

    exit_code = 80


class Garbled(PilotError, ValueError):
    """JSON that somebody else wrote, and that is not as it may be; caught where it is known whose it is."""


class NotJson(Garbled):
    """A text that is no JSON at all."""


class ServerError(PilotError):
    """One call to the PanDA server failed; ``maybe_done``: the server may have done what it asked for."""

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, maybe_done: bool = False) -> None:
        super().__init__(message)
        self.maybe_done = maybe_done


class ServerUnavailable(ServerError):
    """The server could not be reached, or could not do it now."""

    retryable = True


class ServerGarbled(ServerError):
    """The answer could not be read, whatever its status."""

    retryable = True


class ServerRefused(ServerError):
    """The server understood the call and said no: the same call will be refused again."""


class JobError(PilotError):
    """The job fails for this reason."""

    _code: ClassVar[int] = 1008
    blame: ClassVar[Blame] = Blame.PILOT
    retryable: ClassVar[bool] = False

    @property
    def code(self) -> int:
        """The PanDA pilot error code (panda-protocol.md section 16)."""
        return self._code


class BadJob(JobError):
    """A definition that is not a well-formed job.

    ``field`` is the name of the offending field as the server spells it; ``job_id`` and ``attempt`` are
    what could still be read of its identity (None where not even that could be).
    """

    _code = 1311
    blame = Blame.SERVER

    def __init__(self, field: str, reason: str, job_id: int | None = None, attempt: int | None = None) -> None:
        super().__init__(f"bad job definition: {field}: {reason}")
        self.field = field
        self.reason = reason
        self.job_id = job_id
        self.attempt = attempt


class NoWorkDirectory(JobError):
    """The job's own directory could not be made."""

    _code = 1199
    blame = Blame.SITE


class JournalBroken(JobError):
    """The scratch volume takes no more records."""

    _code = 1199
    blame = Blame.SITE


class PilotKilled(JobError):
    """The pilot of the job was killed, and its next life tells so (1200: killed by an unknown signal)."""

    _code = 1200
    blame = Blame.SITE


class OutOfMemory(PilotKilled):
    """Killed, and the memory was used up as far as was seen (1212)."""

    _code = 1212
    blame = Blame.USER


class GpuLost(JobError):
    """A GPU fell off while the payload used it."""

    _code = 1305
    blame = Blame.SITE


class LeaseUnknown(JobError):
    """The server was silent for longer than its heartbeat limit, and could not be asked (1137: as any stage-out)."""

    _code = 1137
    blame = Blame.SERVER


class NoImage(JobError):
    """The container image that evaluations want can be had in no way (1360: image not found)."""

    _code = 1360
    blame = Blame.SITE


class PointsRefused(JobError):
    """Events or iDDS refuse us, or do not answer (1318: communication failure)."""

    _code = 1318
    blame = Blame.SERVER


class InternalError(JobError):
    """A fault of the pilot itself."""

    _code = 1319


class ResourceError(JobError):
    """The job asks for more than the pod has."""

    _code = 1305
    blame = Blame.SITE


Direction = Literal["in", "out"]


class InputsTooLarge(JobError):
    """The inputs are larger than the queue allows."""

    _code = 1168
    blame = Blame.SITE


class NoPayloadCredential(JobError):
    """The credential that payloads get here is not there."""

    _code = 1163
    blame = Blame.SITE


class StageError(JobError):
    """A file could not be moved. ``direction`` decides which of the two codes is told.

    ``pause_s``: a storage has asked to be left alone for so long (Retry-After), in seconds.
    """

    codes: ClassVar[tuple[int, int]] = (1099, 1137)
    kind: ClassVar[str] = "failed"
    blame = Blame.SITE

    def __init__(self, message: str, direction: Direction = "in") -> None:
        super().__init__(message)
        self.direction: Direction = direction
        self.pause_s = 0.0

    @property
    def code(self) -> int:
        """The stage-in or the stage-out code of this kind of failure."""
        return self.codes[0 if self.direction == "in" else 1]


class FileMissing(StageError):
    """The source does not exist."""

    codes = (1331, 1103)
    kind = "missing"


class Mismatch(StageError):
    """Size or checksum differ from what was promised, or from what was sent."""

    codes = (1171, 1172)
    kind = "mismatch"


class Md5Mismatch(Mismatch):
    """The md5 sum differs: PanDA has a code of its own for it."""

    codes = (1145, 1141)
    kind = "md5-mismatch"


class Stalled(StageError):
    """No byte moved for the idle limit, or the total limit was reached."""

    codes = (1151, 1152)
    kind = "stalled"
    retryable = True


class NoSpace(StageError):
    """The target is full."""

    codes = (1098, 1333)
    kind = "no-space"


class Denied(StageError):
    """The storage refused our identity, or has none for us."""

    codes = (1338, 1383)
    kind = "denied"


class NoCredential(Denied):
    """Our credential for a storage has expired, or cannot be read: somebody may renew it."""

    retryable = True


class Exists(StageError):
    """The target is there already, with other content."""

    codes = (1221, 1221)
    kind = "exists"


class Unreachable(StageError):
    """The storage could not be reached, or broke off."""

    codes = (1099, 1137)
    kind = "unreachable"
    retryable = True


class TransferFailed(StageError):
    """Anything else that a storage answered."""


class NoStorage(StageError):
    """No endpoint, or no protocol of it, is known for the file."""

    codes = (1313, 1313)
    kind = "no-storage"


class NonDeterministic(StageError):
    """The storage's paths cannot be computed from scope and name."""

    codes = (1329, 1329)
    kind = "non-deterministic"


class UntrustedUrl(StageError):
    """A URL that this pilot has not been allowed to use."""

    codes = (1149, 1149)
    kind = "untrusted"
    blame = Blame.USER


STAGE_KINDS: dict[str, type[StageError]] = {
    cls.kind: cls
    for cls in (FileMissing, Mismatch, Md5Mismatch, Stalled, NoSpace, Denied, Exists, Unreachable, TransferFailed)
}
"""The kinds of failure that a lane can tell, by the word it uses for them."""


class PayloadError(JobError):
    """The payload failed."""

    _code = 1305
    blame = Blame.USER


class PayloadFailed(PayloadError):
    """The payload ended with a status other than 0 (a negative one: by that signal)."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.payload_exit_code = exit_code

    @property
    def code(self) -> int:
        """1328 for a segmentation fault, else 1305."""
        return 1328 if self.payload_exit_code == -11 else self._code


class DiskFull(PayloadError):
    """The payload failed, and the disk is full (1098: too little local disk)."""

    _code = 1098


class EvaluationsFailed(PayloadError):
    """Points were tried, and no evaluation has given a loss."""

    _code = 1305


class PayloadNotStarted(PayloadError):
    """The payload's process could not be made."""

    _code = 1310
    blame = Blame.SITE


class OutputMissing(PayloadError):
    """The payload ended well, but left no such file."""

    _code = 1165


class OutputTooLarge(PayloadError):
    """An output is larger than this pilot may store."""

    _code = 1124


class Stopped(JobError):
    """A stop was asked for; ``reason`` is the word of ``pilot.values.stop.Reason``."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self._stop_code = code

    @property
    def code(self) -> int:
        """The code that belongs to the reason of the stop."""
        return self._stop_code


class GivenAway(Stopped):
    """The server has ended this attempt, or given it to another pilot: nothing of it may be stored any more."""
