"""The borders where input of others comes in without a network: definitions, documents, files, journals, answers.

A border makes a case with a `Mutator` and reads it, and may do two things: give a value, or raise one of its
``refusals``. What it gives is looked at as well: text that no system call and no server takes is no value.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import zlib
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from pilot.agent import configuration
from pilot.agent.local.jobfile import found, read_content, read_job_file
from pilot.agent.local.studyfile import read_study_file
from pilot.agent.taking import read_definition
from pilot.files.folder import Folder
from pilot.files.kept import KeptFile
from pilot.net.credentials import Token
from pilot.net.x509 import certificate_end
from pilot.panda.decode import decode_job, parse_json
from pilot.runner.hpo import verdict
from pilot.runner.hpo.progress import Progress
from pilot.runner.journal import Journal, Kind
from pilot.runner.past import taken, tell
from pilot.runner.records import parse as parse_journal
from pilot.staging.planning.metalink import MetalinkError
from pilot.staging.planning.metalink import parse as parse_metalink
from pilot.staging.planning.plan import Trust, Vias, make_plan
from pilot.values.decoding import DOCUMENT, decode_json
from pilot.values.errors import BadJob, Garbled, NotJson, SiteError, StageError, UsageError
from pilot.values.hpo import PointWork
from pilot.values.names import Lfn
from pilot.values.outcome import PayloadEnd
from pilot.values.site import Site, overwritten, parse_queue, parse_storages, readable_storages
from pilot.values.study import parse_study
from tests.hostile.examples import (
    CERTIFICATE,
    CLAIMS,
    EVALUATED,
    JOB_FILE,
    METALINK,
    METALINK_3,
    OPTIONS,
    OURS,
    QUEUE,
    RECORDED,
    SETTINGS,
    SIMPLE,
    STORAGES,
    STUDY_FILE,
    WRAPPER,
)
from tests.hostile.fuzz import Mutator, plain

Refusals = tuple[type[Exception], ...]


@dataclass(frozen=True)
class Border:
    """``make`` makes the input of a case, ``read`` reads it, ``look`` says what is wrong with the value."""

    name: str
    cases: int
    make: Callable[[Mutator], Any]
    read: Callable[[Any], Any]
    refusals: Refusals
    look: Callable[[Any], str] = lambda _value: ""
    slow_s: float = 2.0


def sound(value: Any) -> str:
    """What is wrong with a value that was understood: text with NUL or half a character in it."""
    inside, count = [value], 0
    while inside:
        one = inside.pop()
        count += 1
        if isinstance(one, str):
            if "\0" in one:
                return f"a text with NUL: {ascii(one)[:200]}"
            try:
                one.encode()
            except UnicodeEncodeError:
                return f"a text with half a character: {ascii(one)[:200]}"
        elif isinstance(one, dict):
            inside += [*one, *one.values()]
        elif isinstance(one, list | tuple | frozenset):
            inside += one
        elif is_dataclass(one):
            inside += [getattr(one, field.name) for field in fields(one)]
        elif hasattr(one, "items"):
            inside += [*one.keys(), *one.values()]
    return ""


# --- makers -----------------------------------------------------------------------------------------------


def of_json(*examples: Any) -> Callable[[Mutator], bytes]:
    return lambda case: case.json(case.pick(examples))


def of_bytes(*examples: bytes) -> Callable[[Mutator], bytes]:
    return lambda case: case.bytes(case.pick(examples))


def of_yaml(example: Any) -> Callable[[Mutator], bytes]:
    """YAML, or JSON, with what only YAML can say in some of it."""

    def make(case: Mutator) -> bytes:
        case.huge = False  # 300 kB of YAML take seconds
        match case.random.randrange(5):
            case 0:
                return case.json(example)
            case 1:
                return case.bytes(yaml.safe_dump(example).encode())
            case 2:
                return _twisted(case, yaml.safe_dump(example, default_flow_style=None))
            case _:
                spoilt = plain(case.value(example))
                return yaml.safe_dump(spoilt, allow_unicode=case.pick([True, False])).encode("utf-8", "surrogatepass")

    return make


YAML = [
    *(
        "&a [*a]",
        "*a",
        "!!python/object:os.system {}",
        "!!binary x",
        "!!set {1, 2}",
        "2001-01-01",
        "2001-99-99",
        "0o777",
    ),
    *("1:30:00", "0x" + "f" * 5000, ".inf", ".nan", "-.inf", "{? [1] : 2}", "[[" * 500, "? {}", "!!float x", "1e999"),
    *(
        "yes",
        "!!timestamp 1",
        "!!bool x",
        "!!int ''",
        "~",
        "<<: *a",
        "{<<: 1}",
        "|\n  text",
        "--- x\n--- y",
        "%YAML 9.9",
        "@",
        "`",
        "!!int x",
    ),
    "[&a [x], " + ", ".join(f"&{new} [{', '.join([f'*{old}'] * 8)}]" for old, new in pairwise("abcdefgh")) + ", *h]",
]


def _twisted(case: Mutator, text: str) -> bytes:
    """One value of the text replaced by what only YAML can say."""
    lines = text.splitlines()
    at = case.random.randrange(len(lines))
    lines[at] = re.sub(r"(: |- ).*$", lambda found: found[1] + case.pick(YAML), lines[at])
    return "\n".join(lines).encode()


def _wrapper(case: Mutator) -> bytes:
    """A hyper-parameter job; spoilt is one of its arguments, or their text."""
    given = dict(WRAPPER)
    for _ in range(case.random.randint(0, 2)):
        name = case.pick(list(given))
        given[name] = case.text(given[name])
    text = " ".join(f"{name} {shlex.quote(value)}" for name, value in given.items())
    text = case.text(text) if case.random.randrange(3) == 0 else text
    extra = {
        "isHPO": "True",
        "transformation": "runHPO-00-00-01",
        "jobPars": text,
        "container_name": "r/i:1",
        "pointTimeout": 9,
    }
    return json.dumps({**SIMPLE, **extra}).encode()


def _pushed(case: Mutator) -> bytes:
    """As Harvester writes a job into a file: JSON in three forms, or a line like a URL's."""
    match case.random.randrange(4):
        case 0:
            return case.bytes(urlencode(SIMPLE).encode())
        case 1:
            return case.json([SIMPLE])
        case 2:
            return case.json({"4711": SIMPLE})
        case _:
            return case.json(SIMPLE)


def _planned(case: Mutator) -> tuple[bytes, bytes, bytes]:
    """A job on a site; one of the three documents is spoilt."""
    which = case.random.randrange(3)
    spoilt = [case.value(one, 1) if number == which else one for number, one in enumerate((OURS, QUEUE, STORAGES))]
    return tuple(json.dumps(plain(one)).encode("utf-8", "surrogatepass") for one in spoilt)  # type: ignore[return-value]


# --- readers ----------------------------------------------------------------------------------------------


def _job(text: bytes) -> Any:
    job = decode_job(parse_json(text))
    json.dumps(job.hpo and list(job.hpo.data_lists))
    return job


def _queue(text: bytes) -> Any:
    queue = parse_queue("Q", decode_json(text, DOCUMENT))
    queue.allows("allow_alt_stageout")
    Vias.chosen("", "", queue)
    return [queue.name, queue.resource, queue.site, queue.environ, list(queue.astorages.values()), queue.timefloor_s]


def _storages(text: bytes) -> Any:
    raw = decode_json(text, DOCUMENT)
    known, unreadable = readable_storages(raw)
    site = Site(parse_queue("Q", QUEUE), known)
    return [known, unreadable, sorted(site.origins()), site.storage_of("https://h/x")]


def _overwritten(text: bytes) -> Any:
    raw = decode_json(text)
    return overwritten(_SITE, raw if isinstance(raw, dict) else {}, raw if isinstance(raw, dict) else {})


_SITE = Site(parse_queue("Q", QUEUE), parse_storages(STORAGES))


def _plan(texts: tuple[bytes, bytes, bytes]) -> Any:
    job = decode_job(parse_json(texts[0]))
    site = Site(
        parse_queue("Q", decode_json(texts[1], DOCUMENT)), readable_storages(decode_json(texts[2], DOCUMENT))[0]
    )
    plan = make_plan(job, site, Path("/work"), Trust(("/data",), ("http://h",)), Vias.chosen("", "", site.queue))
    documents = dict.fromkeys(plan.documents, METALINK)
    ways = [one.renamed(".1.1") for several in plan.destinations.values() for one in several]
    return [plan.complete(documents), list(plan.urls), ways]


def _token(text: bytes) -> Any:
    import base64  # noqa: PLC0415

    token = Token.read(f"e30.{base64.urlsafe_b64encode(text).decode().rstrip('=')}.c2ln")
    return token.half_life(1.7e9)


def _journal(lines: bytes) -> Any:
    content = parse_journal(lines)
    story = tell(content.records)
    return [story.open, story.ended]


# --- the borders ------------------------------------------------------------------------------------------


def _packs_more(path: Path) -> bool:
    """Whether the study would pack other directories of this machine."""
    with contextlib.suppress(UsageError, ValueError):
        names = parse_study(read_content(path)).evaluation.sandbox
        return any(place is not None and place.is_dir() for place in (found(path.parent, name) for name in names))
    return False


class Files:
    """Readers of what lies in files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file, self._area = folder / "input", folder / "area"
        self._area.mkdir()
        (folder / "count.sh").write_text("true\n")
        (folder / "words.txt").write_text("words")
        self._work = PointWork(1, "true", Lfn("input.json"), Lfn("output.json"), Lfn("meta.json"))
        self._output = KeptFile(os.open(self._area / "stdout", os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
        self._output.append(b"loss=0.5\nkilled\n")
        self._number = 0

    def reads(self, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
        """Of a reader of files makes one of their content."""

        def write_and_read(content: bytes) -> Any:
            self._file.write_bytes(content)
            return read(self._file)

        return write_and_read

    def judged(self, contents: tuple[bytes, bytes]) -> Any:
        for name, content in zip(("output.json", "meta.json"), contents, strict=True):
            (self._area / name).write_bytes(content)
        found = verdict.judge(lambda: Folder.at(self._area), self._work, PayloadEnd(1), self._output)
        json.dumps(dict(found.meta), allow_nan=False)
        return [found, verdict.left_behind(self._area, "output.json")]

    def progress(self, content: bytes) -> Any:
        (self._area / "progress.jsonl").write_bytes(content)
        return Progress(self._area, self._output, re.compile("loss=(?P<loss>.*)")).news()

    def journal(self, content: bytes) -> Any:
        self._number += 1
        volume = self._folder / f"volume{self._number}"
        volume.mkdir()
        (volume / "journal").write_bytes(content)
        with closing(Journal.open(volume)) as journal:
            journal.begin(life="a", settings={})
            journal.write(Kind.LEFT, code=0)
            return tell(journal.past).open


def _settings(path: Path) -> Any:
    return configuration.load({}, str(path)).settings


def _study(path: Path) -> Any:
    if _packs_more(path):
        return None
    given = read_study_file(path)
    again = parse_study(json.loads(json.dumps(given.study.as_json(), allow_nan=False)))
    assert again == given.study, "what is sent is another study"
    return [given.in_place(), given.archive]


def _job_file(path: Path) -> Any:
    given = read_job_file(path)
    return [json.loads(json.dumps(given.in_place(), allow_nan=False)), given.name]


def borders(folder: Path) -> list[Border]:
    """All of them; files lie in ``folder``."""
    files = Files(folder)
    records = list(_records())
    return [
        Border("definitions of a server", 1300, of_json(*RECORDED), _job, (BadJob, NotJson), sound),
        Border("definitions with all fields", 1300, of_json(SIMPLE, OURS, OPTIONS), _job, (BadJob, NotJson), sound),
        Border("arguments of runHPO", 800, _wrapper, _job, (BadJob, NotJson), sound),
        Border(
            "definitions in a file",
            300,
            _pushed,
            files.reads(lambda path: decode_job(read_definition(path))),
            (BadJob, UsageError),
            sound,
        ),
        Border("queue data", 800, of_json(QUEUE, {"Q": QUEUE}), _queue, (SiteError, Garbled), sound),
        Border("storage data", 800, of_json(STORAGES), _storages, (SiteError, Garbled)),
        Border("overwritten site data", 300, of_json(QUEUE, STORAGES), _overwritten, (SiteError, Garbled)),
        Border("plans", 700, _planned, _plan, (BadJob, SiteError, StageError, Garbled), sound),
        Border(
            "metalinks",
            900,
            lambda case: case.xml(case.pick([METALINK, METALINK_3])),
            lambda one: parse_metalink(one, "words.txt"),
            (MetalinkError,),
            sound,
        ),
        Border("settings files", 400, of_yaml(SETTINGS), files.reads(_settings), (UsageError,), sound),
        Border("job files", 400, of_yaml(JOB_FILE), files.reads(_job_file), (UsageError,)),
        Border("study files", 400, of_yaml(STUDY_FILE), files.reads(_study), (UsageError,)),
        Border(
            "evaluations' answers",
            500,
            lambda case: (case.json(EVALUATED), case.json({"a": [1, 2.5]})),
            files.judged,
            (),
        ),
        Border("evaluations' progress", 300, lambda case: _lines(case, {"step": 3, "loss": 0.5}), files.progress, ()),
        Border("tokens", 300, of_json(CLAIMS), _token, ()),
        Border("certificates", 300, of_bytes(CERTIFICATE), lambda one: certificate_end(one.decode("latin-1")), ()),
        Border("journals", 900, lambda case: _spoilt_journal(case, records), _journal, (), sound),
        Border(
            "journals on a volume", 60, lambda case: _spoilt_journal(case, records), files.journal, (SiteError,), sound
        ),
    ]


def _lines(case: Mutator, example: Any) -> bytes:
    return b"\n".join([*(case.json(example) for _ in range(3)), b'{"step": 4, "loss": 0.1}', b""])


def _records() -> Any:
    """What a pilot writes of a job, as dictionaries."""
    job = decode_job({**SIMPLE, "jobPars": "<ZIP_MAP>out.txt:a,b</ZIP_MAP>"})

    class Area:
        root = Path("/w/job-4711-1-0a1b2c3d")

    proof = {"mark": "ab" * 16, "pid": 5, "start": 7, "boot": "b", "namespace": 3, "cgroup": ""}
    way = [["https://h/d/out.txt", "OURS", None], ["root://h//out.txt", "OURS", "https://n/out.txt"]]
    yield {"kind": "life", "life": "a", "pid": 3, "place": "p", "settings": {"queue": "Q"}}
    yield {"kind": "asking"}
    yield {
        "kind": "taken", "job": 4711, "attempt": 1, "identity": {"site_name": "Q", "node": "n"}, "seal": "",
        **taken(job, Area),  # type: ignore[arg-type]
    }  # fmt: skip
    yield {"kind": "planned", "destinations": {"out.txt": way, "log.tgz": way}, "trusted": ["h"]}
    yield {"kind": "starting", "proof": proof}
    yield {"kind": "started", "proof": proof}
    usage = {
        "samples": 3,
        "gpus": [{"uuid": "GPU-1", "samples": 1, "utilisation": 0.5, "max_used_bytes": 3, "energy_j": 1.5}],
    }
    yield {"kind": "usage", "memory_bytes": 5, "limit_bytes": 9, "oom_kills": 0, "usage": usage}
    yield {"kind": "point", "point": "3", "step": "leased", "event": "1-2-3-4-5", "number": 0}
    yield {
        "kind": "point",
        "point": "3",
        "step": "measured",
        "loss": 0.5,
        "folder": "/w/job-4711-1-0a1b2c3d/x",
        "proof": proof,
    }
    yield {"kind": "stop", "reason": "preempted"}
    yield {"kind": "exited", "exit_code": 0, "cpu_s": 0.1, "max_rss_kib": 9, "seconds": 1.0, "stopped": False}
    yield {"kind": "storing", "files": ["out.txt"], "destinations": {"out.txt": way}}
    yield {
        "kind": "stored", "lfn": "out.txt", "guid": "ab", "size": 5, "checksum": "adler32:00000001",
        "url": "https://h/d/out.txt", "endpoint": "OURS",
    }  # fmt: skip
    yield {"kind": "final", "fields": {"job_status": "finished", "trans_exit_code": 0, "pilot_error_diag": "x"}}
    yield {"kind": "ended", "verdict": "stored"}
    yield {"kind": "left", "code": 0}


def _spoilt_journal(case: Mutator, records: list[dict[str, Any]]) -> bytes:
    """A journal up to some record; one is spoilt and has the right checksum, or the bytes of it all are."""
    known = records[: case.random.randint(2, len(records))]
    at = case.random.randrange(len(known))
    texts = [json.dumps({"time": 1.7e9, **one}).encode() for one in known]
    if case.random.randrange(4):
        texts[at] = case.json({"time": 1.7e9, **known[at]}).replace(b"\n", b" ")
    whole = b"".join(b"%08x %b\n" % (zlib.crc32(one), one) for one in texts)
    return case.bytes(whole) if case.random.randrange(4) == 0 else whole
