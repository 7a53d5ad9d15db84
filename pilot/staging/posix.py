"""Moves between two ``file:`` URLs: a shared file system is storage too."""

from __future__ import annotations

import os
from typing import BinaryIO

from pilot.staging.checksum import Digest
from pilot.staging.order import Around, Done, Order, Report, path_of
from pilot.staging.partial import CHUNK, Partial, local_errors, open_regular, remove


def fetch(order: Order, report: Report, _around: Around) -> Done:
    """Bring a file into the work directory: by a hard link where that is safe and possible, else by a copy."""
    source, target = path_of(order.source), path_of(order.destination)
    with Partial(target) as part:
        if _linked(source, part.path):
            with open_regular(part.path) as file:
                digest = _read(file, Digest.of(order), report)
            done = digest.check(order, source)
            part.rename()
            return done
        digest = _copy(source, part, order, report)
        done = digest.check(order, source)
        part.settle()
    return done


def store(order: Order, report: Report, _around: Around) -> Done:
    """Copy an output to storage; its bytes are read again from there before it gets its name.

    Never a link: what the payload writes into its file afterwards must not change what was stored.
    """
    source, target = path_of(order.source), path_of(order.destination)
    with Partial(target) as part:
        digest = _copy(source, part, order, report)
        digest.check(order, source)
        report.verifying(digest.size)
        part.sync()
        with open_regular(part.path) as file:
            again = _read(file, Digest(), None)
        done = digest.agree(target, again.size, again.adler32)
        part.settle()
    return done


def delete(url: str, _around: Around) -> None:
    """Remove a stored file, if it is there."""
    with local_errors(path_of(url)):
        remove(path_of(url))


def _linked(source: str, path: str) -> bool:
    """Whether a link could be made; the kernel refuses those to other devices and to others' files.

    A file that we could write is not linked: a payload that changes its input would change the original.
    """
    if os.access(source, os.W_OK):
        return False
    try:
        os.link(source, path, follow_symlinks=False)
    except OSError:
        return False
    return True


def _copy(source: str, part: Partial, order: Order, report: Report) -> Digest:
    digest = Digest.of(order)
    with open_regular(source) as file, local_errors(source):
        part.write(b"")  # an empty file has no chunk that would make it
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            part.write(chunk)
            report.moved(digest.size)
    return digest


def _read(file: BinaryIO, digest: Digest, report: Report | None) -> Digest:
    with local_errors(file.name if isinstance(file.name, str) else "the copy"):
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if report is not None:
                report.moved(digest.size)
    return digest
