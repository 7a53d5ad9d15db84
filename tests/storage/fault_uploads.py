"""Faults of PUT, and what is there afterwards."""

from __future__ import annotations

from urllib.parse import urlsplit

from tests.storage.fault_answers import BODY, FaultAnswers


class Uploads(FaultAnswers):
    """Each ``put_FAULT`` answers ``/FAULT/...``; N is a number of bytes."""

    def put_movedput(self) -> None:
        self.head(307, Location="/landed/file")
        self.close_connection = True

    def put_stuckput(self) -> None:
        self.rfile.read(1 << 20)
        self.wait()

    def put_dropput(self) -> None:
        self.body()
        self.close_connection = True

    def put_shortput(self) -> None:
        self.keep(self.body()[:-1])

    def put_corruptput(self) -> None:
        content = self.body()
        self.keep(content[:-1] + bytes([content[-1] ^ 1]))

    def put_keepput(self) -> None:
        """Short, and it cannot be deleted afterwards."""
        self.put_shortput()

    def put_lostput(self) -> None:
        """Said to be stored, and it is not."""
        self.body()
        self.head(201)

    def put_lyingput(self) -> None:
        """Stored, and said not to be."""
        self.server.stored[self.path] = self.body()
        self.head(500)

    def put_cutput(self) -> None:
        """``/cutput/N``: N bytes are stored, then comes a reset."""
        self.server.stored[self.path] = self.rfile.read(self.number(1))
        self.reset()

    def put_fullput(self) -> None:
        """``/fullput/N``: N bytes are stored, and it ends without a word, as xrootd does where its disk is full."""
        self.server.stored[self.path] = self.body()[: self.number(1)]
        self.close_connection = True

    def put_slowput(self) -> None:
        """``/slowput/N``: takes N bytes a second, ten times a second."""
        left = int(self.headers["Content-Length"])
        step = max(1, self.number(1) // 10)
        content = b""
        while left > len(content) and self.sleep(0.1):
            content += self.rfile.read(min(step, left - len(content)))
        self.keep(content)

    def put_lateput(self) -> None:
        """``/lateput/N``: takes all of it, and says so N tenths of a second later."""
        content = self.body()
        self.sleep(self.number(1) / 10)
        self.keep(content)

    def keep(self, content: bytes) -> None:
        self.server.stored[self.path] = content
        self.head(201)

    def delete(self) -> None:
        self.server.deleted.append(self.path)
        if self.fault == "keepput":
            self.head(403)
            return
        self.server.stored.pop(self.path, None)
        self.head(204, None)

    def move(self) -> None:
        content = self.server.stored.pop(self.path, None)
        if content is not None:
            self.server.stored[urlsplit(self.headers["Destination"]).path] = content
        self.head(404 if content is None else 201)

    def look(self) -> None:
        """HEAD: what is stored, or what GET promises; ``/nodigest`` never tells a checksum, ``/lies`` a wrong one."""
        if self.fault == "lies":
            self.head(200, len(BODY), Digest="adler32=00000001")
            return
        promised = BODY if hasattr(self, f"get_{self.fault}") else None
        found = self.server.stored.get(self.path.replace("/movedput/x", "/landed/file"), promised)
        if found is None:
            self.head(404)
        else:
            self.head(200, len(found), **({} if self.fault == "nodigest" else self.digest(found)))
