"""An HTTP server that answers as a PanDA server does, but for the answers that it was told to give instead."""

import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ACCEPTED = {"success": True, "message": "", "data": {"StatusCode": 0, "command": "NULL"}}


class Scripted:
    """``updates`` are the bodies of update_job so far; answers that were told are given once, in their order."""

    def __init__(self):
        self.updates = []
        self.told = {}
        self.status = {"job_id": 1, "status": "running", "attempt_number": 1}
        handler = type("Handler", (_Handler,), {"script": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def tell(self, path, *bodies):
        """Answer so to the next calls of this path: bytes, or a value to be written as JSON."""
        self.told.setdefault(path, deque()).extend(bodies)

    def left(self, path):
        """How many of the answers to a path are still to be given."""
        return len(self.told.get(path, ()))

    def command(self, text):
        """Answer the next update with this command."""
        self.tell("update_job", {**ACCEPTED, "data": {"StatusCode": 0, "command": text}})

    def answer(self, path, body):
        name = path.partition("?")[0].rsplit("/", 1)[-1]
        if name == "update_job":
            self.updates.append(json.loads(body))
        told = self.told.get(name)
        if told:
            value = told.popleft()
            return value if isinstance(value, bytes) else json.dumps(value).encode()
        return json.dumps(self._usual(name)).encode()

    def _usual(self, name):
        return {"success": True, "message": "", "data": [self.status]} if name == "get_job_status" else ACCEPTED

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    script: Scripted

    def do_POST(self):
        content = self.script.answer(self.path, self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST  # noqa: N815 - the name is http.server's

    def log_message(self, *_args):
        """Nothing: the tests look at what came."""
