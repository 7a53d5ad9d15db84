"""A definition becomes a Job, or one line that names the field."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot.panda.decode import MOST_BYTES, MOST_ELEMENTS, decode_job, parse_json
from pilot.values.errors import BadJob
from pilot.values.job import Job
from pilot.values.names import Checksum

# the shape that a live server 1.0.4 sent (recorded exchange "acquire_jobs: one job (n_jobs=1)")
LIVE = {
    "StatusCode": 0, "PandaID": 1, "prodSourceLabel": "managed", "swRelease": "NULL", "homepackage": "NULL",
    "transformation": "/bin/bash", "jobName": "real.7bcc1430.0", "jobDefinitionID": 2587, "cloud": "WORLD",
    "inFiles": "in.0.root", "dispatchDblock": "NULL", "dispatchDBlockToken": "NULL",
    "dispatchDBlockTokenForOut": "NULL,NULL", "outFiles": "7bcc1430.out.0.txt,7bcc1430.log.0.tgz",
    "destinationDblock": "wlcg:real.7bcc1430.out,wlcg:real.7bcc1430.log", "destinationDBlockToken": "NULL,NULL",
    "prodDBlocks": "wlcg:real.in", "prodDBlockToken": "NULL",
    "realDatasets": "wlcg:real.7bcc1430.out,wlcg:real.7bcc1430.log", "realDatasetsIn": "wlcg:real.in",
    "fileDestinationSE": "local,local", "logFile": "7bcc1430.log.0.tgz",
    "logGUID": "3cdd8c70-e918-497a-a801-32a0bcad7664", "jobPars": "-c 'echo hello 0 > out.0.txt'", "attemptNr": 0,
    "GUID": "8dc29722-3081-4189-8066-385c93fec98c", "checksum": "ad:0cc737eb", "fsize": "1234", "scopeIn": "wlcg",
    "scopeOut": "wlcg", "scopeLog": "wlcg", "ddmEndPointIn": "", "ddmEndPointOut": ",", "destinationSE": "NULL",
    "prodUserID": "/DC=local/DC=test/OU=people/CN=Alice Example", "maxCpuCount": 3600, "minRamCount": 500,
    "maxDiskCount": 100, "cmtConfig": "NULL", "processingType": "reprocessing", "transferType": "NULL",
    "sourceSite": "NULL", "currentPriority": 1000, "taskID": "NULL", "coreCount": 1, "jobsetID": "NULL",
    "reqID": "NULL", "nucleus": "NULL", "maxWalltime": 3600, "resource_type": "Undefined", "ioIntensity": None,
    "ioIntensityUnit": None, "nSent": 1,
}  # fmt: skip

HOSTILE = [
    "../../etc/passwd", "/etc/passwd", "a\nb", "a\x00b", "a b", "-rf", "a;touch x", "$(touch x)", "`touch x`", "a|b",
    "a&b", "a'b", 'a"b', "a>b", "..", ".", "a/../b", "a\\b", "ä", "a*", "a?b", "~root", "x" * 600, "\u2024\u2024/x",
]  # fmt: skip


def changed(**fields):
    return {**LIVE, **fields}


def test_a_live_definition_is_decoded():
    job = decode_job(LIVE)
    assert (job.id, job.attempt, job.task_id, job.walltime_s) == (1, 0, None, 3600)
    assert job.command == "/bin/bash -c 'echo hello 0 > out.0.txt'"
    assert job.inputs[0].lfn == "in.0.root"
    assert job.inputs[0].size == 1234
    assert job.inputs[0].checksum == Checksum("adler32", "0cc737eb")
    assert job.inputs[0].endpoint is None
    assert [file.lfn for file in job.outputs] == ["7bcc1430.out.0.txt"]
    assert job.outputs[0].scope == "wlcg"
    assert job.log.lfn == "7bcc1430.log.0.tgz"
    assert job.log.guid == "3cdd8c70-e918-497a-a801-32a0bcad7664"


def test_the_log_may_come_first_among_the_outputs():
    job = decode_job(
        changed(outFiles="log.tgz,a.out,b.out", logFile="log.tgz", scopeOut="s.a,s.b", scopeLog="s.log",
                realDatasets="l,a,b", destinationDblock="l,a,b", ddmEndPointOut="L,A,B")
    )  # fmt: skip
    assert [(file.lfn, file.scope, file.endpoint) for file in job.outputs] == [
        ("a.out", "s.a", "A"),
        ("b.out", "s.b", "B"),
    ]
    assert (job.log.scope, job.log.endpoint) == ("s.log", "L")


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
@pytest.mark.parametrize(
    "field",
    ["inFiles", "outFiles", "logFile", "scopeIn", "scopeOut", "scopeLog", "realDatasetsIn", "realDatasets",
     "destinationDblock", "GUID", "logGUID", "ddmEndPointIn"],
)  # fmt: skip
def test_what_is_no_plain_name_is_refused_and_the_field_named(field, name):
    value = name if field not in ("outFiles", "realDatasets", "destinationDblock") else f"{name},7bcc1430.log.0.tgz"
    with pytest.raises(BadJob) as caught:
        decode_job(changed(**{field: value}))
    assert caught.value.field == field
    assert (caught.value.job_id, caught.value.attempt) == (1, 0)
    assert "\n" not in str(caught.value)
    assert "\x00" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"fsize": "-1"}, "fsize"),
        ({"fsize": "12x"}, "fsize"),
        ({"fsize": "1,2"}, "fsize"),
        ({"GUID": "a,b"}, "GUID"),
        ({"scopeIn": "a,b"}, "scopeIn"),
        ({"ddmEndPointOut": "A,B,C"}, "ddmEndPointOut"),
        ({"scopeOut": "a,b"}, "scopeOut"),
        ({"checksum": "sha1:abcd"}, "checksum"),
        ({"checksum": "ad:xyz"}, "checksum"),
        ({"checksum": "md5:0cc737eb"}, "checksum"),
        ({"PandaID": "NULL"}, "PandaID"),
        ({"PandaID": -5}, "PandaID"),
        ({"PandaID": 1.5}, "PandaID"),
        ({"coreCount": "many"}, "coreCount"),
        ({"maxWalltime": -1}, "maxWalltime"),
        ({"transformation": "NULL"}, "transformation"),
        ({"transformation": "http://host/x/../y"}, "transformation"),
        ({"transformation": "http://host/a b"}, "transformation"),
        ({"jobPars": "a\x00b"}, "jobPars"),
        ({"jobPars": ["a"]}, "jobPars"),
        ({"logFile": "other.tgz"}, "logFile"),
        ({"outFiles": "in.0.root,7bcc1430.log.0.tgz"}, "outFiles"),
        ({"inputUrls": {"other": "http://h/x"}}, "inputUrls"),
        ({"inputUrls": {"in.0.root": "gopher://h/x"}}, "inputUrls"),
        ({"inputUrls": {"in.0.root": "file:///a/../../etc/passwd"}}, "inputUrls"),
        ({"inputUrls": {"in.0.root": "http://h/%2e%2e/x"}}, "inputUrls"),
        ({"environment": {"LD_PRELOAD": "x.so"}}, "environment"),
        ({"environment": {"PATH": "/tmp"}}, "environment"),
        ({"environment": {"A B": "x"}}, "environment"),
        ({"environment": {"A;B": "x"}}, "environment"),
        ({"environment": {"A": "x\ny"}}, "environment"),
        ({"environment": {"A": "x\x00y"}}, "environment"),
        ({"environment": {"A": ["x"]}}, "environment"),
        ({"environment": "A=1"}, "environment"),
        ({"sandbox": ["../run.sh"]}, "sandbox"),
    ],
    ids=str,
)
def test_what_is_not_well_formed_is_refused_and_the_field_named(fields, named):
    with pytest.raises(BadJob) as caught:
        decode_job(changed(**fields))
    assert caught.value.field == named


def test_an_md5_of_the_servers_own_spelling_is_not_taken_for_an_adler32():
    job = decode_job(changed(checksum="md5:" + "0" * 32))
    assert job.inputs[0].checksum == Checksum("md5", "0" * 32)


def test_a_definition_of_another_type_is_refused():
    for value in (None, [], "x", 5):
        with pytest.raises(BadJob):
            decode_job(value)


def envelope(job: str) -> bytes:
    return b'{"success": true, "data": {"StatusCode": 0, "jobs": [' + job.encode() + b"]}}"


IDENTITY = '"PandaID": 77, "attemptNr": 3'


@pytest.mark.parametrize(
    "text",
    [
        envelope('{%s, "deep": %s}' % (IDENTITY, "[" * 100_000 + "]" * 100_000)),
        envelope('{%s, "deep": %s}' % (IDENTITY, "[" * 40 + "]" * 40)),
        envelope('{%s, "many": [%s]}' % (IDENTITY, ",".join(["1"] * (MOST_ELEMENTS + 1)))),
        envelope('{%s, "jobPars": "%s"}' % (IDENTITY, "x" * MOST_BYTES)),
        envelope('{%s, "number": %s}' % (IDENTITY, "9" * 5000)),
        envelope('{%s, "number": NaN}' % IDENTITY),
        envelope('{%s, "jobPars": "a", "jobPars": "b"}' % IDENTITY),
    ],
    ids=["deeper than the parser", "deep", "many", "large", "digits", "NaN", "twice"],
)
def test_json_beyond_measure_is_refused_with_the_jobs_identity(text):
    with pytest.raises(BadJob) as caught:
        parse_json(text)
    assert (caught.value.job_id, caught.value.attempt) == (77, 3)


def test_an_identity_inside_a_text_is_not_taken_for_the_jobs_own():
    text = envelope(json.dumps({"jobPars": '"PandaID": 666', "PandaID": 77, "x": 0}).replace('"x": 0', '"x": NaN'))
    with pytest.raises(BadJob) as caught:
        parse_json(text)
    assert caught.value.job_id == 77


# the shape of a hyper-parameter job: the steps are unpacked from the MULTI_STEP_EXEC block by the server
HPO = {
    **LIVE, "isHPO": "True", "taskID": 31415926, "jobsetID": "NULL", "container_name": "docker://registry/evaluate:1",
    "transformation": "https://panda.example:25443/trf/user/runHPO-00-00-01",
    "inFiles": "a.h5,b.h5", "fsize": "1,2", "checksum": "ad:0cc737eb,ad:0cc737eb", "GUID": "g1,g2", "scopeIn": "u,u",
    "realDatasetsIn": "u.ds,u.ds", "ddmEndPointIn": ",",
    "outFiles": "31.metrics.1.tgz,7bcc1430.log.0.tgz", "allowNoOutput": ["31.metrics.1.tgz"],
    "preprocess": {"command": "runHPO", "args": "--preprocess"}, "containerOptions": {"containerImage": "other:2"},
    "jobPars": "-o output.json -j '' --inSampleFile input.json -a jobO.1.tar --sourceURL https://cache.example:25443 "
    "-p 'bash%20run.sh' -i \"['a.h5','b.h5']\" --inMap \"{'IN_DATA': ['a.h5','b.h5']}\" "
    "--writeInputToTxt IN_DATA:input_ds.json --outMetricsFile=31.metrics.1.tgz^metrics.tgz",
}  # fmt: skip


def points(**fields):
    return decode_job({**HPO, **fields})


def test_a_hyper_parameter_job_is_decoded():
    job = points()
    assert (job.command, job.transformation, job.task_id) == ("bash run.sh", None, 31415926)
    assert (job.hpo.task_id, job.hpo.command) == (31415926, "bash run.sh")
    assert (job.hpo.image, job.hpo.timeout_s, job.hpo.progress) == ("docker://registry/evaluate:1", None, None)
    assert dict(job.hpo.data_lists) == {"input_ds.json": ("a.h5", "b.h5")}
    assert job.hpo.metrics == (job.outputs[0].lfn, "metrics.tgz")
    assert job.outputs[0].may_be_missing


def test_any_other_job_evaluates_no_points():
    assert decode_job(LIVE).hpo is None
    assert decode_job({**HPO, "isHPO": "False"}).hpo is None


def test_the_archive_of_a_hyper_parameter_job_is_an_input_from_the_cache():
    job = points()
    assert [file.lfn for file in job.inputs] == ["a.h5", "b.h5", "jobO.1.tar"]
    assert job.inputs[-1].urls == ("https://cache.example:25443/cache/jobO.1.tar",)
    assert job.hpo.sandbox == "jobO.1.tar"


def test_an_archive_among_the_inputs_is_not_fetched_twice():
    job = points(jobPars="-p true -a a.h5")
    assert [(file.lfn, file.urls) for file in job.inputs] == [("a.h5", ()), ("b.h5", ())]
    assert job.hpo.sandbox == "a.h5"


def test_the_image_may_stand_in_the_options_of_the_step():
    assert points(container_name="NULL").hpo.image == "other:2"
    assert points(container_name="NULL", containerOptions=None).hpo.image == ""


def test_our_own_keys_of_a_hyper_parameter_job():
    asked = points(progressUrl="http://127.0.0.1:1/local/studies/31/points", pointTimeout=90).hpo
    assert (asked.progress, asked.timeout_s) == ("http://127.0.0.1:1/local/studies/31/points", 90.0)


@pytest.mark.parametrize(
    ("fields", "named", "text"),
    [
        ({"transformation": "https://host/runGen-00-00-02"}, "transformation", "is not runHPO"),
        ({"transformation": "NULL"}, "transformation", "is not runHPO"),
        ({"transformation": "https://host/runHPO/other"}, "transformation", "is not runHPO"),
        ({"taskID": "NULL"}, "taskID", "missing"),
        ({"taskID": "x"}, "taskID", "not a whole number"),
        ({"jobPars": "-p true --foo"}, "jobPars", "'--foo' is not known"),
        ({"jobPars": "-p true -a jobO.1.tar"}, "jobPars", "--sourceURL is missing"),
        ({"jobPars": "-p true -i \"['c.h5']\""}, "jobPars", "'c.h5' is not in inFiles"),
        ({"jobPars": "-p true --outMetricsFile=m^n"}, "jobPars", "'m' is not in outFiles"),
        ({"jobPars": "-p true -a 31.metrics.1.tgz --sourceURL http://h:1"}, "outFiles", "stands twice"),
        ({"container_name": "an image"}, "container_name", "no name of an image"),
        ({"container_name": "NULL", "containerOptions": {"containerImage": ["x"]}}, "containerOptions", "no name"),
        ({"containerOptions": "x", "container_name": ""}, "containerOptions", "not an object"),
        ({"progressUrl": "file:///etc/passwd"}, "progressUrl", "not the address"),
        ({"progressUrl": "x"}, "progressUrl", "scheme"),
        ({"pointTimeout": -1}, "pointTimeout", "negative"),
        ({"pointTimeout": "soon"}, "pointTimeout", "not a whole number"),
    ],
    ids=str,
)
def test_a_hyper_parameter_job_that_is_not_well_formed_is_refused(fields, named, text):
    with pytest.raises(BadJob) as caught:
        points(**fields)
    assert caught.value.field == named
    assert text in str(caught.value)
    assert (caught.value.job_id, caught.value.attempt) == (1, 0)
    assert len(str(caught.value).splitlines()) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(sorted([*HPO, "command", "environment", "inputUrls", "sandbox", "gpus", "progressUrl"])),
        json_values,
    ),
    st.sampled_from([LIVE, HPO]),
)
@settings(max_examples=400, deadline=None)
def test_any_definition_is_a_job_or_a_bad_job(fields, whole):
    try:
        job = decode_job({**whole, **fields})
    except BadJob as error:
        assert error.field
        assert len(str(error).splitlines()) == 1
    else:
        assert isinstance(job, Job)
        names = [file.lfn for file in (*job.inputs, *job.outputs)]
        assert all("/" not in name and name != ".." for name in names)
        assert len(set(names)) == len(names)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_a_value_or_a_named_error(text):
    with contextlib.suppress(ValueError, BadJob):
        parse_json(text)
