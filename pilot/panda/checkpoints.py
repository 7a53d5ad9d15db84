"""Checkpoints of hyper-parameter points in the server's cache (hpo-contract.md 3.2).

One tarball for a point, named by task and point; a new one takes the old one's place.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from pilot.net.transport import Limits
from pilot.panda.generations import Generations
from pilot.panda.idds import checked
from pilot.panda.wire import Wire, decode, succeeded
from pilot.values.errors import ServerGarbled, ServerRefused

_CALL = Limits(connect_s=10, idle_s=60, total_s=120)
_UPLOAD = Limits(connect_s=10, idle_s=60, total_s=900)
_PUT, _OLD_PUT = "/api/v1/file_server/upload_hpo_checkpoint", "/server/panda/put_checkpoint"
_DELETE, _OLD_DELETE = "/api/v1/file_server/delete_hpo_checkpoint", "/server/panda/delete_checkpoint"


class CheckpointClient:
    """The cache of one server. To be used by one thread."""

    def __init__(self, wire: Wire) -> None:
        """Speak through ``wire``."""
        self._wire = wire
        self._server = Generations()

    def put(self, task: int, point: str, file: Path) -> None:
        """Store a tarball, sent from the disk piece by piece.

        Raises ServerRefused also for one that the server finds too large, ServerUnavailable, CredentialError,
        OSError for ``file``.
        """
        name = f"{task}_{checked(point)}"

        def send(path: str) -> dict[str, Any]:
            with _Part(file, name) as body:
                return self._wire.stream(path, body, body.content_type, _UPLOAD)

        succeeded(f"upload of {name}", self._server.call(lambda: send(_PUT), lambda: _envelope(send(_OLD_PUT))))

    def get(self, source: str, task: int, point: str, target: Path, most_bytes: int) -> bool:
        """Fetch a tarball into ``target``, without any credential; False if there is none.

        Raises ServerRefused also for one that is larger than ``most_bytes``, ServerUnavailable, OSError for
        ``target``; nothing is left there then.
        """
        url = f"{source.rstrip('/')}/cache/hpo_cp_{task}_{checked(point)}"
        limits = Limits(_UPLOAD.connect_s, _UPLOAD.idle_s, _UPLOAD.total_s, most_bytes)
        try:
            return self._wire.fetch(url, target, limits)
        except ServerGarbled as error:  # it will be as large the next time
            raise ServerRefused(str(error)) from None

    def delete(self, task: int, point: str) -> None:
        """Remove a tarball; that there is none is no error."""
        body = {"task_id": str(task), "sub_id": checked(point)}
        self._server.call(
            lambda: self._wire.post(_DELETE, body, _CALL),
            lambda: decode(self._wire.form(_OLD_DELETE, body, _CALL)),
        )


def _envelope(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The older answer says ``status`` for ``success``."""
    return {**answer, "success": answer.get("status")}


class _Part(io.RawIOBase):
    """A file as the one part of a multipart body (RFC 7578), read piece by piece."""

    def __init__(self, file: Path, name: str) -> None:
        super().__init__()
        boundary = secrets.token_hex(16)
        head = (
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        self.content_type = f"multipart/form-data; boundary={boundary}"
        tail = f"\r\n--{boundary}--\r\n"
        self._given = 0
        self._length = len(head) + file.stat().st_size + len(tail)
        self._parts: list[BinaryIO] = [io.BytesIO(head.encode()), file.open("rb"), io.BytesIO(tail.encode())]

    def __len__(self) -> int:
        """All of it, in bytes: what `requests` takes for the Content-Length."""
        return self._length

    def tell(self) -> int:
        """How much of it was read: without it `requests` sends it chunked, which the server refuses (411)."""
        return self._given

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next piece."""
        for part in self._parts:
            if piece := part.read(size):
                self._given += len(piece)
                return piece
        return b""

    def close(self) -> None:
        """Close the file."""
        for part in self._parts:
            part.close()
        super().close()
