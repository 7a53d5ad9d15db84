"""Good examples of what comes in: definitions, documents, files. What is spoilt begins as one of them."""

from __future__ import annotations

import json
from urllib.parse import quote

from tests.contract.recorded import EXCHANGES
from tests.studies import study

RECORDED = [job for exchange in EXCHANGES if not exchange.cut for job in exchange.jobs]
"""Definitions of a live server."""

SIMPLE = {
    "PandaID": 4711, "attemptNr": 1, "taskID": 31, "jobsetID": 7, "transformation": "sh", "jobPars": "-c true",
    "prodSourceLabel": "managed", "inFiles": "words.txt,more.txt", "scopeIn": "user.a,user.b",
    "realDatasetsIn": "user.a:in,NULL", "GUID": "3cdd8c70-e918-497a-a801-32a0bcad7664,NULL", "fsize": "12,0",
    "checksum": "ad:0a1b2c3d,md:9e107d9d372bb6826bd81d3542a419d6", "ddmEndPointIn": "FAR,NULL",
    "inputUrls": {"words.txt": ["http://h/w", "root://r:1094//w.meta4"], "more.txt": "davs://h/m"},
    "sandbox": ["more.txt"],
    "outFiles": "out.txt,log.tgz", "scopeOut": "user.a", "logFile": "log.tgz", "scopeLog": "user.a",
    "logGUID": "3cdd8c70-e918-497a-a801-32a0bcad7665", "realDatasets": "user.a:o,user.a:l",
    "destinationDblock": "user.a:o,user.a:l", "ddmEndPointOut": "OURS,NEAR", "allowNoOutput": ["out.txt"],
    "environment": {"A": "1", "B": "two words", "C": 3}, "coreCount": 4, "gpus": 1, "minRamCount": "2000",
    "maxDiskCount": 100, "maxWalltime": "NULL", "debug": "False", "altStageOut": "on",
    "secrets": '{"key": "value-of-it"}',
}  # fmt: skip
OURS = {**SIMPLE, "command": "echo $A > out.txt", "transformation": "http://h/t.sh"}
OPTIONS = {
    **SIMPLE,
    "jobPars": "--overwriteQueueData {'maxtime': 5, 'params': {'x': 1}} -x --overwriteStorageData={\"FAR\": "
    '{"arprotocols": {"pr": [{"endpoint": "https://f", "path": "/p"}]}}} "<ZIP_MAP>out.txt:a,b</ZIP_MAP>"',
}
WRAPPER = {
    "-o": "output.json", "-j": "", "--inSampleFile": "input.json", "-p": quote("sh run.sh %IN_DATA > log 2>&1"),
    "-a": "jobO.185663cd.tar", "--sourceURL": "https://h:25443", "--checkPointToSave": "ckpt,model.h5",
    "--checkPointInterval": "2", "--checkPointToLoad": "saved.tgz", "--writeInputToTxt": "IN_DATA:input_ds.json",
    "-i": "['words.txt', 'more.txt']", "--inMap": "{'IN_DATA': ['words.txt', 'more.txt']}",
    "--outMetaFile": "meta.json",
    "--segmentID": "987654", "--outMetricsFile": "out.txt^metrics.tgz", "--maxLoopCount": "5", "--iddsURL": "https://i/",
}  # fmt: skip
QUEUE = {
    "name": "Q", "nickname": "Q", "panda_resource": "Q", "atlas_site": "SITE", "gstat": "SITE", "state": "ACTIVE",
    "status": "online", "timefloor": 10, "maxtime": "86400", "maxwdir": 20000, "maxinputsize": "NULL",
    "is_cvmfs": "false", "catchall": "a,b save_stopped", "environ": "A=1 export B=2;C=3",
    "astorages": {"pw": ["OURS", "FAR"], "pr": ["NEAR"], "read_lan": ["NEAR"]},
    "params": "{'stagein_via': 'NEAR', 'allow_alt_stageout': True}", "corecount": 8,
}  # fmt: skip
WAYS = [{"endpoint": "davs://far:443/", "path": "/d/"}, {"endpoint": "root://far:1094/", "path": "//d"}]
STORAGES = {
    "FAR": {"arprotocols": {"pr": WAYS, "pw": WAYS, "read_lan": WAYS}, "is_deterministic": True, "site": "X"},
    "OURS": {"arprotocols": {"pw": WAYS[:1], "write_lan": WAYS, "r": WAYS}, "is_deterministic": "True", "site": "SITE"},
    "NEAR": {"arprotocols": json.dumps({"pr": WAYS, "pw": WAYS}), "site": "SITE", "state": "ACTIVE"},
}  # fmt: skip
METALINK = b"""<?xml version="1.0" encoding="UTF-8"?>
<metalink xmlns="urn:ietf:params:xml:ns:metalink"><file name="words.txt"><size>12</size>
<hash type="adler32">0a1b2c3d</hash><hash type="md5">9e107d9d372bb6826bd81d3542a419d6</hash>
<url location="de" priority="2">https://h/w</url><url priority="1">root://r:1094//w</url></file></metalink>"""
METALINK_3 = b"""<metalink version="3.0" xmlns="http://www.metalinker.org/"><files><file name="words.txt">
<size>12</size><verification><hash type="ad">0a1b2c3d</hash></verification><resources><url type="http" preference="90">http://h/w</url>
<url type="ftp">ftp://h/w</url></resources></file></files></metalink>"""
SETTINGS = {
    "server": "https://h:25443", "queue": "Q", "work": "/scratch", "max_jobs": 3, "idle": 60.0, "grace": "30",
    "in_pod": True, "checkpoints": ["*.ckpt"], "storage_credentials": ["h:1094=token:/t", "*=none"], "lanes": 2,
    "existing_output": "rename", "soft_signal": "SIGINT", "worker_id": "7", "harvester_id": "H", "log_format": "json",
    "progress_pattern": "loss=(?P<loss>[0-9.]+)", "point_failure": "penalise", "max_output": 0, "heartbeat": 1e2,
}  # fmt: skip
JOB_FILE = {
    "name": "words", "command": "sh count.sh", "sandbox": ["count.sh"], "inputs": [{"url": "words.txt", "size": 5}, "http://h/x"],
    "outputs": ["out"], "environment": {"A": 1}, "cores": 1, "memory_mib": 500, "walltime_s": 60, "gpus": 0,
    "queue": "Q",
}  # fmt: skip
STUDY_FILE = {
    **study(evaluation={"sandbox": ["count.sh"], "inputs": ["words.txt", "http://h/x"], "per_gpu": 2, "cores": 2}),
    "search_space": {
        "x": {"method": "uniform", "dimension": {"low": 0.0, "high": 1.0}},
        "n": {"method": "uniformint", "dimension": {"low": 1, "high": 9}},
        "c": {"method": "categorical", "dimension": {"categories": ["a", 1, None]}},
        "q": {"method": "quniform", "dimension": {"low": 0, "high": 1, "q": 0.25}},
    },
    "initial_points": [[{"x": 0.5, "n": 3, "c": "a", "q": 0.5}, 0.25]], "pruner": "median", "points_per_iteration": 2,
    "checkpoint": {"save": ["ckpt"], "load": "saved.tgz", "interval_minutes": 2}, "parallel_jobs": 2,
}  # fmt: skip
EVALUATED = {"status": 0, "loss": 0.25, "message": "well", "meta": [1]}
CLAIMS = {"exp": 1.9e9, "iat": 1.7e9, "iss": "https://i/", "aud": ["a"], "scope": "storage.read:/"}
CERTIFICATE = b"""-----BEGIN CERTIFICATE-----
MIIByTCCAW+gAwIBAgIUAt0WK+fAcxnbQUyUAE7wxRZzbt8wCgYIKoZIzj0EAwIw
QDEXMBUGA1UECgwOdHJ1c3RtZSB2MS4yLjExJTAjBgNVBAsMHFRlc3RpbmcgQ0Eg
I0JXenJUYmFMVDRid3NoOXEwIBcNMDAwMTAxMDAwMDAwWhgPMzAwMDAxMDEwMDAw
MDBaMEAxFzAVBgNVBAoMDnRydXN0bWUgdjEuMi4xMSUwIwYDVQQLDBxUZXN0aW5n
IENBICNCV3pyVGJhTFQ0YndzaDlxMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
fZlCjuc83vHgm7kTNwsZwEGZio/xyIVo6VAH1CWKjJs0qdzRTx5WH8//j0XH9Qu/
Ky5C5StM2vepumlHkXdp9aNFMEMwHQYDVR0OBBYEFJ2KVuJ/MWXvLpyzBJtqWjpA
GDd1MBIGA1UdEwEB/wQIMAYBAf8CAQkwDgYDVR0PAQH/BAQDAgGGMAoGCCqGSM49
BAMCA0gAMEUCIESWWlxHDVjSd7EROOkQVnq81/Dyd8bNBk4QLufgm4JPAiEAvZTQ
v1V+R1ADI0kqzZ1iBdn90EUe8DhfnbjyAEJVt8s=
-----END CERTIFICATE-----
"""
