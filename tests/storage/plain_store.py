"""A web server that keeps files and can do little else: what it lacks, refuses or spoils is said when it is made."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

import trustme

from tests.storage.web import Answers, WebServer


@dataclass(frozen=True)
class Ways:
    """How a store behaves.

    ``refused``: methods, and the status that each gets. ``no_digest``: the status of whoever asks for a checksum.
    ``length``: what a HEAD says of it (``told``, ``none``, ``zero``).
    ``signed``: a URL is good for the method that its query names. ``tags``: headers of the answer to a PUT.
    ``spoils``: what becomes of a body that is PUT. ``cuts``: of the paths that end so, that many bytes are taken.
    ``moved``: where a path leads to, which is told in UTF-8. ``end``: the last line of a COPY. ``sums``: whether it
    keeps checksums. ``no_expect``: whoever asks for leave to send is refused that.
    """

    refused: Mapping[str, int] = field(default_factory=dict)
    no_digest: int = 0
    length: str = "told"
    signed: bool = False
    ranges: bool = True
    sums: bool = True
    tags: Callable[[bytes], dict[str, str]] = lambda _content: {}
    spoils: Callable[[bytes], bytes] = lambda content: content
    cuts: Mapping[str, int] = field(default_factory=dict)
    end: bytes = b"success: Created"
    no_expect: bool = False
    moved: Mapping[str, str] = field(default_factory=dict)


class PlainStore(WebServer):
    """Its ``files`` by their decoded paths, in which slashes count once."""

    def __init__(self, ways: Ways | None = None, ca: trustme.CA | None = None, **files: bytes) -> None:
        super().__init__(_Handler, ca)
        self.ways = ways or Ways()
        self.files = {f"/{name}": content for name, content in files.items()}

    @property
    def methods(self) -> list[str]:
        return [seen.method for seen in self.seen]


def place(url: str) -> str:
    return "/" + "/".join(part for part in unquote(urlsplit(url).path).split("/") if part)


class _Handler(Answers):
    server: PlainStore

    def handle_expect_100(self) -> bool:
        if not self.server.ways.no_expect:
            return super().handle_expect_100()
        self.remember()
        self.head(417)
        return False

    def answer(self) -> None:
        self.remember()
        ways = self.server.ways
        self.name = place(self.path)
        cut = [size for end, size in ways.cuts.items() if self.command == "PUT" and self.name.endswith(end)]
        if cut:
            self.server.files[self.name] = self.rfile.read(cut[0])
            self.close_connection = True
            return
        content = self.body()
        if len(content) < int(self.headers.get("Content-Length", "0")):
            self.close_connection = True  # half a body is none
        elif ways.signed and self.command not in parse_qs(urlsplit(self.path).query).get("signed", []):
            self.head(403)
        elif self.name in ways.moved:
            self.head(307, Location=ways.moved[self.name].encode().decode("latin-1"))
        elif self.command in ways.refused:
            self.head(ways.refused[self.command])
        elif ways.no_digest and "Want-Digest" in self.headers:
            self.head(ways.no_digest)
        else:
            getattr(self, f"on_{self.command.lower()}")(content)

    def on_put(self, content: bytes) -> None:
        self.server.files[self.name] = self.server.ways.spoils(content)
        self.head(201, **self.server.ways.tags(content))

    def on_head(self, _content: bytes) -> None:
        found = self.server.files.get(self.name)
        if found is None:
            self.head(404)
            return
        length = {"told": len(found), "zero": 0, "none": None}[self.server.ways.length]
        self.head(200, length, **self.sum_of(found))

    def on_get(self, _content: bytes) -> None:
        found = self.server.files.get(self.name)
        if found is None:
            self.head(404)
        elif self.server.ways.ranges and self.headers.get("Range") == "bytes=0-0":
            if found:
                self.head(206, 1, Content_Range=f"bytes 0-0/{len(found)}", **self.sum_of(found))
                self.wfile.write(found[:1])
            else:
                self.head(416, Content_Range="bytes */0")
        else:
            self.head(200, len(found), **self.sum_of(found))
            self.wfile.write(found)

    def on_propfind(self, _content: bytes) -> None:
        found = self.server.files.get(self.name)
        if found is None:
            self.head(404)
            return
        text = (
            f'<D:multistatus xmlns:D="DAV:"><D:response><D:href>{self.path}</D:href><D:propstat><D:prop>'
            f"<D:resourcetype/><D:getcontentlength>{len(found)}</D:getcontentlength></D:prop></D:propstat></D:response></D:multistatus>"
        ).encode()
        self.head(207, len(text))
        self.wfile.write(text)

    def on_delete(self, _content: bytes) -> None:
        if self.server.files.pop(self.name, None) is None:
            self.head(404)
        else:
            self.head(204, None)

    def on_move(self, _content: bytes) -> None:
        target = place(self.headers["Destination"])
        if self.name not in self.server.files:
            self.head(404)
        elif self.headers.get("Overwrite", "T") == "F" and target in self.server.files:
            self.head(412)
        else:
            self.server.files[target] = self.server.files.pop(self.name)
            self.head(201)

    def on_copy(self, _content: bytes) -> None:
        """From one of its own files to another, whatever server is named."""
        source, target = self.headers["Source"], self.headers["Destination"]
        found = self.server.files.get(place(source) if source else self.name)
        if found is None:
            self.head(404)
            return
        self.server.files[place(target) if target else self.name] = self.server.ways.spoils(found)
        end = self.server.ways.end
        self.head(201, len(end))
        self.wfile.write(end)

    def on_mkcol(self, _content: bytes) -> None:
        self.head(405)

    def sum_of(self, content: bytes) -> dict[str, str]:
        wanted = self.server.ways.sums and "adler32" in self.headers.get("Want-Digest", "")
        return {"Digest": f"adler32={zlib.adler32(content):08x}"} if wanted else {}
