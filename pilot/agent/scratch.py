"""The scratch directory of a pilot, and the files of its own in it."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from pilot.files.folder import Folder
from pilot.files.opening import make_file, permit
from pilot.runner.own import open_own, put_aside
from pilot.values.errors import SiteError
from pilot.values.settings import Settings

LOG_NAME = "pilot.log"
"""The pilot's whole log: what is uploaded to the cache."""

ALIVE_NAME = "heartbeat"
"""The file that a living pilot touches every `ALIVE_EVERY_S` seconds, and that a probe looks at."""

ALIVE_EVERY_S = 60.0

CREDENTIALS_NAME = "credentials"
"""The directory of the private copies of credentials that lanes work with."""

DRAIN_NAME = "drain"
"""While this file is there, no job is taken (setting ``drain_file``)."""

_PROBE_NAME = ".pilot-writes-here"


def make_scratch(settings: Settings) -> Path:
    """The directory, absolute, made if it is missing. Raises SiteError if it cannot be written.

    What an earlier payload has left in place of a file of ours is put aside.
    """
    work = Path(settings.work).absolute()
    try:
        work.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # a payload may have shut it; a link, or somebody else's directory, is as it is
            permit(str(work))
        with Folder.at(work) as volume:
            os.close(make_file(_PROBE_NAME, at=volume.fd))
            os.unlink(_PROBE_NAME, dir_fd=volume.fd)
            for name in (LOG_NAME, ALIVE_NAME):
                with suppress(FileNotFoundError):  # there is none yet, or what was there is aside now
                    os.close(open_own(name, os.O_WRONLY, volume.fd))
            with suppress(FileNotFoundError):
                if not stat.S_ISDIR(volume.status(CREDENTIALS_NAME).st_mode):
                    put_aside(CREDENTIALS_NAME, volume.fd, "no directory")
    except OSError as error:
        what = ": ".join(filter(None, (error.strerror, str(error.filename or ""))))
        raise SiteError(
            f"scratch directory {work} cannot be used: {what}: mend that, or choose another with --work"
        ) from None
    return work
