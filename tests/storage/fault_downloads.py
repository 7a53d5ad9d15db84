"""Faults of GET."""

from __future__ import annotations

import gzip
import re

from tests.storage.fault_answers import BODY, FaultAnswers

OTHER = BODY[::-1]
"""What is there after a change: as long, and nowhere the same."""


class Downloads(FaultAnswers):
    """Each ``get_FAULT`` answers ``/FAULT/...``; N is a place in the body, K a number of requests."""

    def get_fine(self) -> None:
        self._whole(BODY)

    def get_redirect(self) -> None:
        """``/redirect/CODE``: to a good one, here."""
        self.head(self.number(1), Location="/fine/file")

    def get_flipped(self) -> None:
        self._whole(BODY[:-1] + bytes([BODY[-1] ^ 1]))

    def get_short(self) -> None:
        self._broken(2 << 20)

    def get_stalls(self) -> None:
        self._stalled(2 << 20)

    def get_trunc(self) -> None:
        """``/trunc/N``: N bytes of what was announced."""
        self._broken(self.number(1))

    def get_truncnolen(self) -> None:
        """``/truncnolen/N``: N bytes, and nothing was announced: it looks complete."""
        self.head(200, None, Connection="close")
        self.wfile.write(BODY[: self.number(1)])
        self.close_connection = True

    def get_truncchunk(self) -> None:
        """``/truncchunk/N``: in chunks, without the last one."""
        self.head(200, None, Transfer_Encoding="chunked")
        self.chunk(BODY[: self.number(1)])
        self.close_connection = True

    def get_rst(self) -> None:
        """``/rst/N``: a reset after N bytes."""
        self._broken(self.number(1))
        self.reset()

    def get_flip(self) -> None:
        """``/flip/N``: one bit of byte N is another."""
        at = self.number(1)
        self._whole(BODY[:at] + bytes([BODY[at] ^ 1]) + BODY[at + 1 :])

    def get_long(self) -> None:
        """``/long/N``: N bytes more than the catalogue knows, announced so."""
        self._whole(BODY + BODY[: self.number(1)])

    def get_longchunk(self) -> None:
        """``/longchunk/N``: the same in chunks."""
        self.head(200, None, Transfer_Encoding="chunked")
        for piece in (BODY, BODY[: self.number(1)], b""):
            self.chunk(piece)

    def get_overlong(self) -> None:
        """``/overlong/N``: announced rightly, and N bytes more are sent."""
        self.head(200, len(BODY))
        self.wfile.write(BODY + BODY[: self.number(1)])
        self.close_connection = True

    def get_endless(self) -> None:
        """Chunks until the client has had enough."""
        self.head(200, None, Transfer_Encoding="chunked")
        while not self.server.over.is_set():
            self.chunk(BODY)

    def get_huge(self) -> None:
        """``/huge/N``: N bytes, announced so."""
        self._whole((BODY * (self.number(1) // len(BODY) + 1))[: self.number(1)])

    def get_baddigest(self) -> None:
        self.head(200, len(BODY), Digest="adler32=00000000")
        self.wfile.write(BODY)

    def get_gzip(self) -> None:
        """A file that was compressed by the producer, which a kind server would have decompressed on the way."""
        content = gzip.compress(BODY)
        self.head(200, len(content), Content_Encoding="gzip")
        self.wfile.write(content)

    def get_stall(self) -> None:
        """``/stall/N``: nothing after N bytes."""
        self._stalled(self.number(1))

    def get_nohdr(self) -> None:
        self.wait()

    def get_slow(self) -> None:
        """``/slow/N``: N bytes a second, ten times a second."""
        step = max(1, self.number(1) // 10)
        self.head(200, len(BODY))
        for start in range(0, len(BODY), step):
            self.wfile.write(BODY[start : start + step])
            if not self.sleep(0.1):
                break

    def get_resume(self) -> None:
        """``/resume/K/N``: the first K requests break off after N bytes of what they asked for; ranges work."""
        self._ranged(BODY, '"one"')

    def get_notag(self) -> None:
        """``/notag/K/N``: the same, with nothing to tell that the file is still the same one, as of xrootd 5.5."""
        self._ranged(BODY, None)

    def get_changes(self) -> None:
        """``/changes/K/N``: after K requests it is another file, with another tag and the same size."""
        before = self.turn <= self.number(1)
        self._ranged(BODY if before else OTHER, '"one"' if before else '"two"')

    def get_norange(self) -> None:
        """``/norange/K/N``: the whole file, whatever range is asked for."""
        self._part(BODY, 0, len(BODY) - 1, 200, ETag='"one"')

    def get_wrongrange(self) -> None:
        """``/wrongrange/K/N``: from another place than was asked for, and it says so."""
        asked = self._asked(len(BODY))
        start = max(0, asked[0] - 1) if asked else 0
        self._part(BODY, start, len(BODY) - 1, 206 if asked else 200, ETag='"one"')

    def get_emptyrange(self) -> None:
        """``/emptyrange/K/N``: a range without an end has no bytes, as of xrootd 5.5."""
        asked = self._asked(len(BODY))
        if asked and self.headers["Range"].endswith("-"):
            self.head(206, 0, Content_Range=f"bytes {asked[0]}--1/{len(BODY)}")
        else:
            self._ranged(BODY, None)

    def get_norangeatall(self) -> None:
        """``/norangeatall/K/N``: 416 to every range."""
        if "Range" in self.headers:
            self.head(416, Content_Range=f"bytes */{len(BODY)}")
        else:
            self._ranged(BODY, '"one"')

    def _whole(self, content: bytes) -> None:
        self.head(200, len(content))
        self.wfile.write(content)

    def _broken(self, at: int) -> None:
        self.head(200, len(BODY))
        self.wfile.write(BODY[:at])
        self.close_connection = True

    def _stalled(self, at: int) -> None:
        self.head(200, len(BODY))
        self.wfile.write(BODY[:at])
        self.wait()

    def _ranged(self, content: bytes, tag: str | None) -> None:
        asked = self._asked(len(content))
        if asked and self.headers.get("If-Range", tag) != tag:
            asked = None  # it is not that file any more: all of it, from the beginning
        start, end = asked or (0, len(content) - 1)
        tags = {"Accept-Ranges": "bytes"} | ({"ETag": tag} if tag else {})
        self._part(content, start, end, 206 if asked else 200, **tags)

    def _part(self, content: bytes, start: int, end: int, code: int, **headers: str) -> None:
        """A range, of which the first K answers lack the rest behind N bytes."""
        part = content[start : end + 1]
        if code == 206:
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self.head(code, len(part), **headers)
        if self.turn <= self.number(1) and self.number(2) < len(part):
            part = part[: self.number(2)]
            self.close_connection = True
        self.wfile.write(part)

    def _asked(self, size: int) -> tuple[int, int] | None:
        """The range that was asked for, first and last byte."""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if found is None:
            return None
        return int(found[1]), min(int(found[2] or size - 1), size - 1)
