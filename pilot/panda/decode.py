"""The border where PanDA's JSON becomes a `Job`, or is refused as a `BadJob` that names the field.

Comma lists, "NULL" strings and "True" flags end here (panda-protocol.md 4.5, trap 16-22). What the pilot
adds to a definition of its embedded server stands in top-level keys of its own: ``command``,
``environment``, ``inputUrls`` (for an LFN its URL, or several), ``sandbox`` and ``gpus``, for hyper-parameter jobs
``progressUrl`` and ``pointTimeout``; a PanDA task can bring the same through the MULTI_STEP_EXEC block of its
parameters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pilot.panda.definition import Definition
from pilot.panda.parameters import split_parameters
from pilot.panda.pointwork import point_work
from pilot.values.decoding import STRICT, decode_json
from pilot.values.errors import BadJob, Garbled, NotJson
from pilot.values.job import InputFile, Job, OutputFile
from pilot.values.names import Checksum, Dataset, Endpoint, EnvName, Guid, Lfn, Scope, Url, env_value, quoted

MOST_BYTES, MOST_ELEMENTS = STRICT.most_bytes, STRICT.most_elements


def parse_json(text: bytes) -> Any:
    """Decode JSON that holds job definitions: strict, and bounded in size, elements and depth.

    Raises NotJson for what is no JSON, and BadJob, with the identity that a search in the raw text finds, for
    JSON that is too large, too deep, or holds what no JSON may.
    """
    try:
        return decode_json(text)
    except NotJson:
        raise
    except Garbled as error:
        raise _rescued(text, str(error)) from None


def _rescued(text: bytes, reason: str) -> BadJob:
    """A BadJob with the identity that stands in the raw text: enough to tell the server."""
    job_id = re.search(rb'"PandaID"\s*:\s*(\d{1,18})\b', text)
    attempt = re.search(rb'"attemptNr"\s*:\s*(\d{1,9})\b', text)
    return BadJob("definition", reason, int(job_id[1]) if job_id else None, int(attempt[1]) if attempt else None)


def decode_job(raw: Any) -> Job:
    """Check a definition and make a Job of it. Raises BadJob with field, reason and identity."""
    if not isinstance(raw, dict):
        raise BadJob("definition", "not an object")
    fields = Definition(raw)
    try:
        return _job(fields)
    except BadJob as error:
        raise BadJob(error.field, error.reason, *fields.identity()) from None


def _job(fields: Definition) -> Job:
    job_id = fields.number("PandaID", required=True)
    attempt = fields.number("attemptNr") or 0
    inputs, (outputs, log) = _inputs(fields), _outputs(fields)
    _no_clash(inputs, outputs, log)
    parameters = split_parameters(fields.text("jobPars"))
    _outputs_only(parameters.zips, outputs)
    hpo = None
    if fields.flag("isHPO"):
        hpo, inputs = point_work(fields, parameters.text, inputs, outputs)
        _no_clash(inputs, outputs, log)
        command, transformation = hpo.command, None
    else:
        command, transformation = _command(fields, parameters.text)
    return Job(
        id=job_id or 0,
        attempt=attempt,
        command=command,
        transformation=transformation,
        task_id=fields.number("taskID"),
        label=fields.text("prodSourceLabel"),
        inputs=inputs,
        outputs=outputs,
        log=log,
        environment=_environment(fields),
        cores=fields.number("coreCount") or 1,
        gpus=fields.number("gpus") or 0,
        memory_mib=fields.number("minRamCount") or None,
        disk_mib=fields.number("maxDiskCount") or None,
        walltime_s=fields.number("maxWalltime") or None,
        debug=fields.flag("debug"),
        secrets=_secrets(fields),
        hpo=hpo,
        zips=parameters.zips,
        alt_stage_out={"on": True, "off": False}.get(fields.text("altStageOut").lower()),
        overwrite_queue=parameters.queue,
        overwrite_storages=parameters.storages,
    )


def _size(text: str) -> int | None:
    """A size in bytes; 0 is what PanDA writes when it does not know (corrections A18)."""
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise ValueError(f"{quoted(text)} is not a size in bytes")
    if int(text) < 0:
        raise ValueError(f"{text} is negative")
    return int(text) or None


def _inputs(fields: Definition) -> tuple[InputFile, ...]:
    names = [fields.parsed("inFiles", Lfn, name) for name in fields.names("inFiles")]
    count = len(names)
    urls = {key: _urls(fields, given) for key, given in fields.object("inputUrls").items()}
    sandbox = set(fields.names("sandbox"))
    _known("inputUrls", urls, names)
    _known("sandbox", sandbox, names)
    columns = zip(
        names,
        fields.aligned("scopeIn", Scope, count, "inFiles"),
        fields.aligned("realDatasetsIn", Dataset, count, "inFiles"),
        fields.aligned("GUID", Guid, count, "inFiles"),
        fields.aligned("fsize", _size, count, "inFiles"),
        fields.aligned("checksum", Checksum.parse, count, "inFiles"),
        fields.aligned("ddmEndPointIn", Endpoint, count, "inFiles"),
        strict=True,
    )
    return tuple(
        InputFile(lfn, scope, dataset, guid, size, checksum, endpoint, urls.get(lfn, ()), executable=lfn in sandbox)
        for lfn, scope, dataset, guid, size, checksum, endpoint in columns
    )


def _urls(fields: Definition, given: Any) -> tuple[Url, ...]:
    """One URL, or several of the same file."""
    several = given if isinstance(given, list) else [given]
    if not several:
        raise BadJob("inputUrls", "an empty list")
    return tuple(dict.fromkeys(fields.parsed("inputUrls", Url, str(url)) for url in several))


def _known(field: str, keys: Mapping[str, Any] | set[str], names: list[Lfn]) -> None:
    for key in keys:
        if key not in names:
            raise BadJob(field, f"{quoted(key)} is not in inFiles")


def _outputs(fields: Definition) -> tuple[tuple[OutputFile, ...], OutputFile | None]:
    """Outputs and log: both stand in outFiles, in any order, but scopeOut leaves the log out (B6)."""
    names = [fields.parsed("outFiles", Lfn, name) for name in fields.names("outFiles")]
    log_name = fields.text("logFile")
    log_lfn = fields.parsed("logFile", Lfn, log_name) if log_name else None
    if log_lfn and log_lfn not in names:
        raise BadJob("logFile", f"{quoted(log_lfn)} is not in outFiles")
    scopes = iter(fields.aligned("scopeOut", Scope, len(names) - bool(log_lfn), "outFiles without the log"))
    log_scope = fields.aligned("scopeLog", Scope, 1, "logFile")[0] if log_lfn else None
    log_guid = fields.aligned("logGUID", Guid, 1, "logFile")[0] if log_lfn else None
    missing_ok = set(fields.names("allowNoOutput"))
    datasets = fields.aligned("realDatasets", Dataset, len(names), "outFiles")
    fields.aligned("destinationDblock", Dataset, len(names), "outFiles")
    endpoints = fields.aligned("ddmEndPointOut", Endpoint, len(names), "outFiles")
    files = [
        OutputFile(
            lfn=lfn,
            scope=log_scope if lfn == log_lfn else next(scopes),
            dataset=dataset,
            guid=log_guid if lfn == log_lfn else None,
            endpoint=endpoint,
            may_be_missing=lfn in missing_ok,
        )
        for lfn, dataset, endpoint in zip(names, datasets, endpoints, strict=True)
    ]
    log = next((file for file in files if file.lfn == log_lfn), None)
    return tuple(file for file in files if file is not log), log


def _no_clash(inputs: tuple[InputFile, ...], outputs: tuple[OutputFile, ...], log: OutputFile | None) -> None:
    """Every file has a name of its own in the work directory."""
    seen: set[str] = set()
    everything = [("inFiles", file.lfn) for file in inputs] + [("outFiles", file.lfn) for file in outputs]
    if log is not None:
        everything.append(("logFile", log.lfn))
    for field, lfn in everything:
        if lfn in seen:
            raise BadJob(field, f"{quoted(lfn)} stands twice among the job's files")
        seen.add(lfn)


def _outputs_only(zips: Mapping[Lfn, tuple[Lfn, ...]], outputs: tuple[OutputFile, ...]) -> None:
    """An archive that we are to make is one that the job declares."""
    names = {file.lfn for file in outputs}
    for archive in zips:
        if archive not in names:
            raise BadJob("jobPars", f"the archive {quoted(archive)} of its ZIP_MAP is not in outFiles")


def _environment(fields: Definition) -> Mapping[str, str]:
    result: dict[str, str] = {}
    for key, value in fields.object("environment").items():
        if not isinstance(value, (str, int, float)) or isinstance(value, bool):
            raise BadJob("environment", f"{quoted(key)}: the value is neither a text nor a number")
        result[fields.parsed("environment", EnvName, key)] = fields.parsed("environment", env_value, str(value))
    return MappingProxyType(result)


def _secrets(fields: Definition) -> Mapping[str, str]:
    """Secrets come as JSON text (4.3); they go into a file of the payload's and nowhere else."""
    text = fields.text("secrets")
    if not text:
        return MappingProxyType({})
    try:
        value = decode_json(text)
    except Garbled as error:
        raise BadJob("secrets", "not JSON" if isinstance(error, NotJson) else str(error)) from None
    if not isinstance(value, dict):
        raise BadJob("secrets", "not an object")
    return MappingProxyType({str(key): one if isinstance(one, str) else json.dumps(one) for key, one in value.items()})


def _command(fields: Definition, parameters: str) -> tuple[str, Url | None]:
    """The payload's text, and the URL that its transformation is to be fetched from, if it is one."""
    command = fields.text("command")
    if command:
        return command, None
    transformation = fields.text("transformation")
    if not transformation:
        raise BadJob("transformation", "missing, and there is no command either")
    if not transformation.startswith(("http://", "https://")):
        return f"{transformation} {parameters}".strip(), None
    url = fields.parsed("transformation", Url, transformation)
    name = fields.parsed("transformation", Lfn, url.path.rsplit("/", 1)[-1])
    return f"./{name} {parameters}".strip(), url
