"""What makes a definition a hyper-parameter job: ``isHPO``, the wrapper runHPO, and what stands beside its arguments.

With another transformation such a job is refused: who would give it points is not known.
"""

from __future__ import annotations

import re
from dataclasses import replace

from pilot.panda.definition import Definition
from pilot.panda.runhpo import ServerUrl, read_arguments
from pilot.values.errors import BadJob
from pilot.values.hpo import PointWork
from pilot.values.job import InputFile, OutputFile
from pilot.values.names import Lfn, Url, quoted


def point_work(
    fields: Definition, parameters: str, inputs: tuple[InputFile, ...], outputs: tuple[OutputFile, ...]
) -> tuple[PointWork, tuple[InputFile, ...]]:
    """What the job asks for, and its inputs with the sandbox among them. Raises BadJob."""
    transformation = fields.text("transformation")
    if not transformation.rsplit("/", 1)[-1].startswith("runHPO"):
        raise BadJob("transformation", f"{quoted(transformation)} is not runHPO: its points cannot be evaluated here")
    work, named = read_arguments(parameters, fields.number("taskID", required=True) or 0)
    names = {file.lfn for file in inputs}
    for name in named:
        if name not in names:
            raise BadJob("jobPars", f"runHPO argument --inMap: {quoted(name)} is not in inFiles")
    if work.metrics is not None and work.metrics[0] not in {file.lfn for file in outputs}:
        raise BadJob("jobPars", f"runHPO argument --outMetricsFile: {quoted(work.metrics[0])} is not in outFiles")
    if work.sandbox is not None and work.sandbox not in names:
        inputs = (*inputs, _sandbox(work.sandbox, work.source))
    progress, timeout = fields.text("progressUrl"), fields.number("pointTimeout")
    work = replace(
        work,
        image=_image(fields),
        timeout_s=float(timeout) if timeout else None,
        progress=fields.parsed("progressUrl", ServerUrl, progress) if progress else None,
    )
    return work, inputs


def _sandbox(name: Lfn, source: str | None) -> InputFile:
    """The archive of the user's files, where the wrapper would fetch it."""
    if source is None:
        raise BadJob("jobPars", f"runHPO argument -a: {quoted(name)} lies nowhere, as --sourceURL is missing")
    return InputFile(name, urls=(Url(f"{source}/cache/{name}"),))


def _image(fields: Definition) -> str:
    """The container image; "" for none."""
    field, image = "container_name", fields.text("container_name")
    if not image:
        field, image = "containerOptions", fields.object("containerOptions").get("containerImage") or ""
    if not isinstance(image, str) or not re.fullmatch(r"[!-~]{0,1000}", image):
        raise BadJob(field, f"{quoted(str(image))} is no name of an image")
    return image
