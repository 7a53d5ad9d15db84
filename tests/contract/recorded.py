"""The recorded sessions with a live panda-server 1.0.4 and iDDS 2.6.21, and what is needed to play them again."""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True)
class Exchange:
    """One recorded exchange; ``request`` tells in words how it was sent."""

    name: str
    method: str
    path: str
    request: str
    body: str | None
    status: int | None
    reply_headers: str
    reply: str

    @property
    def call(self):
        parts = self.path.partition("?")[0].split("/")
        return "/".join(parts[-2:]) if self.path.startswith("/api") else "legacy"

    @property
    def certificate(self):
        return re.match(r"client cert: (\w+)", self.request)[1]

    @property
    def headers(self):
        found = re.search(r"headers (\{.*?\})", self.request)
        return {"Accept": None, **(ast.literal_eval(found[1]) if found else {})}

    @property
    def sent(self):
        """The body as arguments of requests."""
        if "JSON body" in self.request:
            return {"json": whole(self)}
        if "raw body" in self.request:
            return {"data": ast.literal_eval(self.body)}
        return {"data": ast.literal_eval(self.body)} if "form body" in self.request else {}

    @property
    def reply_header(self):
        """A header of the answer, None without, as a function of its name."""
        return ast.literal_eval(self.reply_headers).get

    @property
    def jobs(self):
        """The jobs that were handed out."""
        if self.call != "pilot/acquire_jobs" or '"jobs": [' not in self.reply:
            return []
        return given(self) if self.cut else json.loads(self.reply)["data"]["jobs"]

    @property
    def cut(self):
        """Whether the recording holds only the beginning of the answer."""
        return self.reply.endswith("...")

    @property
    def mentioned(self):
        texts = re.findall(r"job_ids=(\d+)", self.path)
        texts += re.findall(r'"job_ids?": ?\[?(\d+)', self.body or "")
        return [int(text) for text in texts]


def _read(name):
    return [Exchange(**json.loads(line)) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


EXCHANGES = _read("panda-live-exchanges.jsonl")
IDDS_EXCHANGES = _read("idds-live-exchanges.jsonl")

_SIZES = {"2000 characters": 2000, "2 MB": 2_000_000, "1 MB": 1_000_000}


def whole(exchange):
    """The JSON body; of a cut one the last field is as long again as the exchange's name says."""
    try:
        return json.loads(exchange.body)
    except ValueError:
        size = next(size for words, size in _SIZES.items() if words in exchange.name)
        head, letter = re.match(r'(.*": ")((?:\\u\w{4}){2}|.)', exchange.body).groups()
        return json.loads(head + letter * size + '"}')


def given(exchange):
    """The jobs of a cut answer: of the first there is a part, those after it differ in their numbers."""
    first = json.loads(exchange.reply[: exchange.reply.rindex(', "')] + "}]}}")["data"]["jobs"][0]
    tag, number = re.fullmatch(r"real\.(\w+)\.(\d+)", first["jobName"]).groups()
    count = min(whole(exchange).get("n_jobs", 1), 10)
    return [_numbered(first, tag, int(number), step) for step in range(count)]


def _numbered(first, tag, number, step):
    files = {"outFiles": "{0}.out.{1}.txt,{0}.log.{1}.tgz", "logFile": "{0}.log.{1}.tgz", "jobName": "real.{0}.{1}"}
    named = {key: text.format(tag, number + step) for key, text in files.items()}
    inputs = {"inFiles": f"in.{number + step}.root"} if first.get("inFiles") else {}
    return {**first, "attemptNr": 0, **inputs, **named, "PandaID": first["PandaID"] + step}
