"""The kept HTTP connections of a lane, and whom they trust."""

from __future__ import annotations

import functools
import os
import ssl
from typing import Any
from urllib.parse import unquote

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from pilot.staging.order import Around
from pilot.staging.worker.web.leave import Asking
from pilot.values.errors import Denied, TransferFailed


def pool(around: Around, certificate: str) -> urllib3.PoolManager:
    """The connections that are made with a client certificate, or with none; urllib3 itself tries nothing again."""
    return _kept(around.ca_path, certificate, around.http_proxy, around.idle_s)


def listen_for(response: urllib3.BaseHTTPResponse, seconds: float) -> None:
    """From now on, the rest of an answer is waited for so long at a time."""
    if isinstance(response.connection, Asking):
        response.connection.line.settimeout(seconds)


class _Plain(Asking, HTTPConnection):
    pass


class _Secure(Asking, HTTPSConnection):
    pass


@functools.cache
def _kept(ca_path: str, certificate: str, proxy: str, send_s: float) -> urllib3.PoolManager:
    more: dict[str, Any] = {"ssl_context": _context(ca_path, certificate), "maxsize": 2}
    if proxy:
        login = urllib3.util.parse_url(proxy).auth
        manager: urllib3.PoolManager = urllib3.ProxyManager(
            proxy,
            proxy_ssl_context=_context(ca_path, ""),  # the certificate is not for the proxy
            proxy_headers=urllib3.make_headers(proxy_basic_auth=unquote(login) if login else None),
            **more,
        )
    else:
        manager = urllib3.PoolManager(**more)
    limit = {"send_s": send_s}
    manager.pool_classes_by_scheme = {
        "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": type("Plain", (_Plain,), limit)}),
        "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": type("Secure", (_Secure,), limit)}),
    }
    return manager


def _context(ca_path: str, certificate: str) -> ssl.SSLContext:
    """One for all connections: the file of authorities is read once."""
    path = ca_path or certifi.where()
    try:
        folder = os.path.isdir(path)  # noqa: PTH112 - pathlib costs 7 ms
        context = ssl.create_default_context(capath=path if folder else None, cafile=None if folder else path)
    except OSError as error:
        raise TransferFailed(f"{path}: the certificate authorities cannot be read: {error}") from error
    if certificate:
        try:
            context.load_cert_chain(certificate, password="")  # an encrypted key is refused, not asked about
        except (OSError, ValueError) as error:
            raise Denied(f"{certificate}: the client certificate cannot be used: {error}") from error
    return context
