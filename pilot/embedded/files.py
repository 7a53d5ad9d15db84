"""The store over HTTP: GET with Range, HEAD, PUT, DELETE, and checksums on demand (RFC 3230)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from flask import Blueprint, Response, request

from pilot.embedded.store import KINDS, Entry, Store, StoreError, read


def blueprint(store: Store) -> Blueprint:
    """The routes under /store/."""
    routes = Blueprint("files", __name__)

    @routes.errorhandler(StoreError)
    def refuse(error: StoreError) -> Response:
        return Response(f"{error}\n", error.status, content_type="text/plain")

    @routes.get("/store/<rest:path>")
    def get(path: str) -> Response:
        entry = store.opened(path)
        try:
            return _answer(store, entry)
        except BaseException:
            os.close(entry.descriptor)
            raise

    @routes.put("/store/<rest:path>")
    def put(path: str) -> Response:
        if request.content_length is None:
            raise StoreError(411, "Content-Length is needed")
        new = store.put(path, request.environ["wsgi.input"], request.content_length)
        return Response(status=201 if new else 204)

    @routes.delete("/store/<rest:path>")
    def delete(path: str) -> Response:
        store.delete(path)
        return Response(status=204)

    return routes


def _answer(store: Store, entry: Entry) -> Response:
    start, length = _range(request.headers.get("Range", ""), entry.size)
    headers = {"Content-Length": str(length), "Accept-Ranges": "bytes", "ETag": f'"{entry.identity}"'}
    wanted = [kind for kind in KINDS if kind in request.headers.get("Want-Digest", "").lower()]
    if wanted:
        headers["Digest"] = ",".join(f"{kind}={store.digest(entry, kind)}" for kind in wanted)
    partial = (start, length) != (0, entry.size)
    if partial:
        headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{entry.size}"
    body: Iterator[bytes] = iter(()) if request.method == "HEAD" else read(entry, start, length)
    response = Response(body, 206 if partial else 200, headers, content_type="application/octet-stream")
    response.call_on_close(lambda: os.close(entry.descriptor))
    return response


def _range(header: str, size: int) -> tuple[int, int]:
    """Start and length of what is asked for: the whole file unless it is one range that can be read."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if not found or found[0].endswith("=-"):
        return 0, size
    first, last = found[1], found[2]
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last) + 1, size) if first and last else size
    if start >= size:
        raise StoreError(416, f"the file has {size} bytes")
    return (start, end - start) if end > start else (0, size)
