"""Whole jobs whose files lie on a real xrootd server: root:// and https in, root:// out (issue 2, shows 2 and 3)."""

import json
import zlib
from urllib.parse import urlsplit

from pilot.values.names import Lfn, Scope
from pilot.values.site import deterministic_path
from tests.checker import on_disk
from tests.lab import Run, definition, dump


def storage_data(xrootd, path):
    """Two endpoints on one server, in the shape of panda-protocol.md section 11.2."""

    def entry(url):
        one = [{"endpoint": url.rsplit("//", 1)[0] + "/", "path": path, "flavour": "XROOTD"}]
        return {"is_deterministic": True, "arprotocols": {"read_lan": one, "write_lan": one, "pl": one}}

    return {"XRD_ROOT": entry(xrootd.root("x")), "XRD_HTTPS": entry(xrootd.https("/x").rsplit("/", 1)[0] + "//x")}


def on_xrootd(xrootd, url):
    """For the checker: what lies on the server's disk. It asks for the embedded server's files too."""
    if urlsplit(url).port not in (xrootd.root_port, xrootd.web_port):
        raise LookupError(url)
    return on_disk(xrootd.data / urlsplit(url).path.lstrip("/"))


def test_a_job_reads_from_xrootd_and_https_and_stores_to_xrootd(serve, xrootd, ca_path, tmp_path):
    one, two = b"from root\n" * 1000, b"from https\n" * 1000
    for name, content in (("one.txt", one), ("two.txt", two)):
        xrootd.put("rucio/" + deterministic_path(Scope("user.alice"), Lfn(name)), content)
    serve.listers.append(lambda url: on_xrootd(xrootd, url))
    storages = tmp_path / "ddmendpoints.json"
    storages.write_text(json.dumps(storage_data(xrootd, "/rucio")))
    job_id = serve.submit_panda(
        **definition(
            transformation="cat", jobPars="one.txt two.txt > both.txt", inFiles="one.txt,two.txt",
            scopeIn="user.alice,user.alice", fsize=f"{len(one)},{len(two)}",
            checksum=f"ad:{zlib.adler32(one):08x},ad:{zlib.adler32(two):08x}", GUID="a,b",
            realDatasetsIn="user.alice:in,user.alice:in", ddmEndPointIn="XRD_ROOT,XRD_HTTPS",
            outFiles="both.txt,the.log.tgz", scopeOut="user.alice", scopeLog="user.alice", realDatasets="o,l",
            destinationDblock="o,l", ddmEndPointOut="XRD_ROOT,XRD_HTTPS",
        )
    )  # fmt: skip
    environment = {"PILOT_STORAGEDATA": str(storages), "PILOT_CA": ca_path}
    pilot = Run(serve.url, tmp_path / "work", "--max-jobs", 1, environment=environment)
    assert pilot.wait() == 0, pilot.errors.read_text()
    status = serve.ended(job_id)
    assert status["state"] == "finished", dump(status) + pilot.log.read_text()
    final = json.loads(serve.calls("update_job", job_id)[-1]["body"])
    report = json.loads(final["job_output_report"])
    assert report["both.txt"]["surl"].startswith("root://")
    assert report["the.log.tgz"]["surl"].startswith("https://")
    # the server's own sum of what lies on its disk is the one that was reported
    stored = "rucio/" + deterministic_path(Scope("user.alice"), Lfn("both.txt"))
    assert xrootd.adler32(stored) == report["both.txt"]["adler32"] == f"{zlib.adler32(one + two):08x}"


def test_a_job_from_yaml_names_its_inputs_by_url(serve, xrootd, ca_path, tmp_path):
    content = b"x" * 100_000
    xrootd.put("plain/a", content)
    inputs = [{"name": "a", "url": xrootd.root("plain/a")}, {"name": "b", "url": xrootd.https("plain/a")}]
    job_id = serve.submit(command="cmp a b && wc -c < a > n", inputs=inputs, outputs=["n"])
    pilot = Run(serve.url, tmp_path / "work", "--max-jobs", 1, environment={"PILOT_CA": ca_path})
    assert pilot.wait() == 0
    status = serve.ended(job_id)
    assert status["state"] == "finished", dump(status) + pilot.log.read_text()
    assert serve.fetch(status["outputs"][0]["url"]).strip() == b"100000"


def test_an_input_missing_at_the_xrootd_server_fails_the_job_at_once(serve, xrootd, tmp_path):
    job_id = serve.submit(command="true", inputs=[{"name": "a", "url": xrootd.root("no/such")}])
    assert Run(serve.url, tmp_path / "work", "--max-jobs", 1).wait() == 0
    status = serve.ended(job_id)
    assert (status["state"], status["pilot_error_code"]) == ("failed", 1331), dump(status)
