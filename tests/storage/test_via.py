"""Whole jobs whose files travel between storages (third-party copy), with tokens, and what of that is seen where."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pilot.values.names import Lfn, Scope
from pilot.values.site import deterministic_path
from tests.checker import on_disk
from tests.lab import Run, clean_environment, definition, dump
from tests.secrets import leaks

INPUT = random.Random(1).randbytes(4_000_000)
SCOPE = "user.alice"


def place(name: str) -> str:
    return deterministic_path(Scope(SCOPE), Lfn(name))


def on_disks(servers, url):
    """For the checker: what lies on the disk of the server that a URL names."""
    for server in servers:
        if urlsplit(url).port in (server.root_port, server.web_port):
            return on_disk(server.data / urlsplit(url).path.lstrip("/"))
    raise LookupError(url)


@pytest.fixture(scope="module")
def second_guarded(ca, issuer, guarded):
    from tests.storage.xrootd_server import XrootdServer  # noqa: PLC0415 - one more, for the far side

    with XrootdServer(ca, issuer) as server:
        yield server


def storage_data(near, far, folder: Path) -> Path:
    """COLD and FAR on one server, HOT and NEAR on the other, each below a directory of its own."""

    def entry(server, path):
        base = server.https("").rstrip("/") + "/"
        one = [{"endpoint": base, "path": path, "flavour": "WEBDAV"}]
        return {"is_deterministic": True, "arprotocols": {"read_lan": one, "write_lan": one, "pl": one}}

    file = folder / "ddmendpoints.json"
    data = {
        "COLD": entry(far, "/cold"),
        "FAR": entry(far, "/far"),
        "HOT": entry(near, "/hot"),
        "NEAR": entry(near, "/near"),
    }
    file.write_text(json.dumps(data))
    return file


def submit(serve, **more):
    fields = {
        "transformation": "sh", "jobPars": "-c 'cat words.txt words.txt > twice.txt'", "inFiles": "words.txt",
        "scopeIn": SCOPE, "fsize": str(len(INPUT)), "checksum": f"ad:{zlib.adler32(INPUT):08x}", "GUID": "a",
        "realDatasetsIn": f"{SCOPE}:in", "ddmEndPointIn": "COLD", "outFiles": "twice.txt,the.log.tgz",
        "scopeOut": SCOPE, "scopeLog": SCOPE, "realDatasets": "o,l", "destinationDblock": "o,l",
        "ddmEndPointOut": "FAR,FAR",
    }  # fmt: skip
    return serve.submit_panda(**definition(**fields | more))


class Traced:
    """A pilot under strace."""

    def __init__(self, serve, tmp_path: Path, trace: list[str], environment: dict[str, str]) -> None:
        self.trace = tmp_path / "trace"
        self.output = tmp_path / "pilot.out"
        pilot = [sys.executable, "-m", "pilot", "run", "--server", serve.url, "--work", str(tmp_path / "work")]
        command = ["strace", "-f", "-qq", *trace, "-o", str(self.trace), *pilot, "--max-jobs", "1"]
        with self.output.open("w") as out:
            done = subprocess.run(
                command, env=clean_environment() | environment, stdout=out, stderr=out, check=False, timeout=100
            )
        self.code = done.returncode


def moved(trace: Path) -> Counter[int]:
    """Bytes that all processes together have read from, or written to, each TCP port of a server."""
    found: Counter[int] = Counter()
    for line in trace.read_text(errors="replace").splitlines():
        if match := re.search(r"<TCP:\[[^\]]*->127\.0\.0\.1:(\d+)\]>.* = (\d+)$", line):
            found[int(match[1])] += int(match[2])
    return found


@pytest.fixture
def settings(guarded, second_guarded, issuer, ca_path, tmp_path, serve):
    """What the pilot's environment says: two guarded storages, and a token for both."""
    serve.listers.append(lambda url: on_disks([guarded, second_guarded], url))
    token = tmp_path / "secret" / "storage.token"
    token.parent.mkdir(mode=0o700)
    token.write_text(issuer.token())
    token.chmod(0o644)
    second_guarded.put("cold/" + place("words.txt"), INPUT)
    return {
        "PILOT_STORAGEDATA": str(storage_data(guarded, second_guarded, tmp_path)),
        "PILOT_CA": ca_path,
        "PILOT_STORAGE_TOKEN": str(token),
    }


def test_inputs_and_outputs_travel_by_third_party_copy_and_not_through_the_pod(
    serve, guarded, second_guarded, settings, tmp_path
):
    job = submit(serve)
    network = "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg"
    via = {"PILOT_STAGEIN_VIA": "HOT", "PILOT_STAGEOUT_VIA": "NEAR"}

    pilot = Traced(serve, tmp_path, ["-yy", "-s", "0", "-e", network], settings | via)

    status = serve.ended(job)
    assert (pilot.code, status["state"]) == (0, "finished"), dump(status) + pilot.output.read_text()
    bytes_by_port = moved(pilot.trace)
    assert bytes_by_port[guarded.web_port] > 3 * len(INPUT)  # in once, out twice as much
    assert bytes_by_port[second_guarded.web_port] < 100_000  # questions and answers only
    assert (second_guarded.data / "far" / place("twice.txt")).read_bytes() == INPUT * 2
    assert (guarded.data / "hot" / place("words.txt")).read_bytes() == INPUT
    assert not [path for path in (guarded.data / "near").rglob("*") if path.is_file()]
    report = json.loads(json.loads(serve.calls("update_job", job)[-1]["body"])["job_output_report"])
    assert report["twice.txt"]["surl"].startswith(second_guarded.https("far/"))
    # the input lies at the hot storage by now: the next job needs no copy of it
    again = submit(serve, ddmEndPointOut="NEAR,NEAR", jobPars="-c 'cp words.txt twice.txt'")
    second = Run(serve.url, tmp_path / "again", "--max-jobs", 1, environment=settings | {"PILOT_STAGEIN_VIA": "HOT"})
    assert second.wait() == 0
    assert serve.ended(again)["state"] == "finished"


def test_where_no_copy_between_storages_works_the_pod_is_the_last_resort(
    serve, guarded, second_guarded, settings, tmp_path
):
    """The near storage may not read at the far one, nor write there: it knows no token but the pod's for itself."""
    job = submit(serve)
    storages = json.loads(Path(settings["PILOT_STORAGEDATA"]).read_text())
    for name in ("HOT", "NEAR"):
        for entries in storages[name]["arprotocols"].values():
            entries[0]["path"] = "/closed/" + name
    Path(settings["PILOT_STORAGEDATA"]).write_text(json.dumps(storages))
    guarded.put("closed/other", b"").parent.chmod(0o555)

    pilot = Run(
        serve.url, tmp_path / "work", "--max-jobs", 1,
        environment=settings | {"PILOT_STAGEIN_VIA": "HOT", "PILOT_STAGEOUT_VIA": "NEAR"},
    )  # fmt: skip

    assert pilot.wait() == 0
    status = serve.ended(job)
    assert status["state"] == "finished", dump(status) + pilot.log.read_text()
    assert (second_guarded.data / "far" / place("twice.txt")).read_bytes() == INPUT * 2


def test_no_token_and_no_signature_is_in_a_log_an_argument_list_or_a_tarball(
    serve, guarded, second_guarded, issuer, settings, faults, tmp_path
):
    """One job that ends well and one that fails on the way, both with tokens and a signed URL."""
    signature = "5f3c0ffee5f3c0ffee5f3c0ffee"
    signed = faults.url(f"fine/x?X-Amz-Credential=alice&X-Amz-Signature={signature}")
    broken = faults.url(f"code/403/x?authz={signature}")
    token = Path(settings["PILOT_STORAGE_TOKEN"]).read_text()
    good = submit(serve, inFiles="words.txt,more.txt", scopeIn=f"{SCOPE},{SCOPE}", fsize=f"{len(INPUT)},", checksum=",",
                  GUID="a,b", realDatasetsIn="i,i", ddmEndPointIn="COLD,", inputUrls={"more.txt": signed})  # fmt: skip
    bad = submit(serve, inputUrls={"words.txt": broken}, ddmEndPointIn="")
    work = tmp_path / "work"
    environment = settings | {"PILOT_STAGEIN_VIA": "HOT", "PILOT_STAGEOUT_VIA": "NEAR", "PILOT_LOG_LEVEL": "debug"}
    for number in range(2):
        pilot = Traced(serve, tmp_path, ["-v", "-s", "100000", "-e", "trace=execve"], environment)
        (tmp_path / f"trace{number}").write_bytes(pilot.trace.read_bytes())
        assert pilot.code == 0, pilot.output.read_text()

    assert serve.ended(good)["state"] == "finished", dump(serve.ended(good)) + pilot.output.read_text()
    assert serve.ended(bad)["state"] == "failed"
    secrets = {signature, token, token.rsplit(".", 1)[1]}
    tarballs = list((second_guarded.data / "far").rglob("*.log.tgz"))
    assert tarballs
    assert leaks({"words.txt"}, work, pilot.output) != []  # it does find what is there
    assert leaks(secrets, work, *tmp_path.glob("trace*"), *tarballs, pilot.output) == []
    assert faults.tokens == []  # the host that the job named has seen none, either
    assert not list(work.rglob("credentials/*"))
