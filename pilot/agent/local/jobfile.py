"""Job files: our YAML (DESIGN section 3), or a PanDA job definition as Harvester writes it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from pilot.agent.userfile import parse, read_text
from pilot.values.errors import UsageError

_KEYS: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "command": str,
    "transformation": str,
    "job_pars": str,
    "sandbox": list,
    "inputs": list,
    "outputs": list,
    "environment": dict,
    "cores": int,
    "memory_mib": int,
    "walltime_s": int,
    "gpus": int,
    "queue": str,
}
_INPUT_KEYS = ("url", "name", "size", "checksum")


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job as a user wrote it. ``files`` are the local ones, by the name they have in the work directory."""

    name: str
    definition: dict[str, Any]
    files: dict[str, Path] = field(default_factory=dict)

    def uploaded(self, upload: Callable[[Path], str]) -> dict[str, Any]:
        """The definition with every local file replaced by the URL that ``upload`` gives for it."""
        return self._with({name: upload(path) for name, path in self.files.items()})

    def in_place(self) -> dict[str, Any]:
        """The definition with every local file as a ``file:`` URL: for a pilot on this machine."""
        return self._with({name: path.as_uri() for name, path in self.files.items()})

    def _with(self, urls: dict[str, str]) -> dict[str, Any]:
        if "panda" in self.definition:
            known = {**self.definition["panda"].get("inputUrls", {}), **urls}
            return {"panda": {**self.definition["panda"], "inputUrls": known}}
        located = {
            key: [_located(entry, urls.get(entry["name"])) for entry in self.definition[key]]
            for key in ("inputs", "sandbox")
        }
        return {**self.definition, **located}


def _located(entry: dict[str, Any], here: str | None) -> dict[str, Any]:
    """A file with the URL of its local copy, if there is one, before those that the job file names."""
    if here is None:
        return entry
    return {**entry, "url": [here, *entry["url"]] if "url" in entry else here}


def read_job_file(file: Path, inputs_from: Path | None = None) -> JobFile:
    """Read a job file. Raises UsageError that names the file, the key and what to do.

    ``inputs_from`` is the directory where the inputs of a PanDA definition lie under their LFNs.
    """
    content = read_content(file)
    panda = _panda_definition(content)
    if panda is not None:
        return _panda_job(file, panda, inputs_from)
    return _our_job(file, content)


def read_content(file: Path) -> Any:
    """What is in a file of ours: YAML, JSON, or Harvester's URL-encoded line. Raises UsageError."""
    return _parse(file, read_text(file))


def _parse(file: Path, text: str) -> Any:
    """JSON is YAML too; Harvester's other form is a URL-encoded line."""
    if text.startswith(("PandaID=", "StatusCode=")) or "&PandaID=" in text[:2000]:
        return dict(parse_qsl(text.strip(), keep_blank_values=True))
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{file}: neither YAML nor JSON: {error}") from None


def _panda_definition(content: Any) -> dict[str, Any] | None:
    """A PanDA job: an object with PandaID, or one that is keyed by it, or a list of one."""
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    if isinstance(content, dict) and len(content) == 1:
        (inner,) = content.values()
        if isinstance(inner, dict) and "PandaID" in inner:
            content = inner
    return content if isinstance(content, dict) and "PandaID" in content else None


def _panda_job(file: Path, panda: dict[str, Any], inputs_from: Path | None) -> JobFile:
    names = [name for name in str(panda.get("inFiles") or "").split(",") if name not in ("", "NULL")]
    files = {}
    if inputs_from is not None:
        for name in names:
            path = found(inputs_from, Path(name).name)
            if path is None or not path.is_file():
                raise UsageError(f"{file}: input {name[:100]} is not in {inputs_from}")
            files[name] = path
    if not isinstance(panda.get("inputUrls", {}), dict):
        raise UsageError(f"{file}: inputUrls: not a mapping from names to URLs")
    return JobFile(str(panda.get("jobName") or file.stem).replace("/", "_"), {"panda": panda}, files)


def _our_job(file: Path, content: Any) -> JobFile:
    if not isinstance(content, dict):
        raise UsageError(f"{file}: not a mapping with a command; see examples/")
    for key, value in content.items():
        _check_key(file, str(key), value)
    if not content.get("command") and not content.get("transformation"):
        raise UsageError(f"{file}: neither command nor transformation")
    files: dict[str, Path] = {}
    inputs = [_input(file, index, entry, files) for index, entry in enumerate(content.get("inputs") or [])]
    sandbox = [_sandbox(file, entry, files) for entry in content.get("sandbox") or []]
    outputs = [str(entry) for entry in content.get("outputs") or []]
    rest = {key: value for key, value in content.items() if key not in ("inputs", "sandbox", "outputs", "job_pars")}
    name = str(content.get("name") or file.stem)
    if content.get("job_pars"):
        rest["jobPars"] = content["job_pars"]
    return JobFile(name, {**rest, "name": name, "inputs": inputs, "sandbox": sandbox, "outputs": outputs}, files)


def _check_key(file: Path, key: str, value: Any) -> None:
    if key not in _KEYS:
        near = difflib.get_close_matches(key, _KEYS, n=1)
        raise UsageError(f"{file}: unknown key {key[:60]!r}" + (f"; did you mean {near[0]}?" if near else ""))
    kind = _KEYS[key]
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        wanted = {str: "a text", list: "a list", dict: "a mapping", int: "a whole number"}[kind]  # type: ignore[index]
        raise UsageError(f"{file}: {key}: {str(value)[:60]!r} is not {wanted}")


def _input(file: Path, index: int, entry: Any, files: dict[str, Path]) -> dict[str, Any]:
    entry = {"url": entry} if isinstance(entry, str) else entry
    where = f"{file}: inputs[{index}]"
    if not isinstance(entry, dict) or not entry.get("url"):
        raise UsageError(f"{where}: not a mapping with a url")
    for key in entry:
        if key not in _INPUT_KEYS:
            raise UsageError(f"{where}: unknown key {str(key)[:60]!r} (known: {', '.join(_INPUT_KEYS)})")
    given = entry["url"]
    urls = [str(one) for one in given] if isinstance(given, list) else [str(given)]
    name = str(entry.get("name") or name_of(urls[0]))
    result = {"name": name, **{key: entry[key] for key in ("size", "checksum") if entry.get(key) is not None}}
    remote, local = [url for url in urls if "://" in url], [url for url in urls if "://" not in url]
    if len(local) > 1:
        raise UsageError(f"{where}: {local[0]} and {local[1]}: one of several places can be a file of yours")
    if local:
        files[name] = _local(file, local[0])
        return {**result, "url": remote} if remote else result
    return {**result, "url": remote if isinstance(given, list) else remote[0]}


def name_of(url: str) -> str:
    """The last part of a URL or path; a metalink is called as the file that it names the places of."""
    name = url.partition("?")[0].rstrip("/").rpartition("/")[2]
    return name.removesuffix(".meta4").removesuffix(".metalink")


def _sandbox(file: Path, entry: Any, files: dict[str, Path]) -> dict[str, Any]:
    path = _local(file, str(entry))
    files[path.name] = path
    return {"name": path.name}


def _local(file: Path, name: str) -> Path:
    """A path in a job file is meant from where the file lies."""
    path = found(file.parent, name)
    if path is None or not path.is_file():
        raise UsageError(f"{file}: {name[:200]}: there is no such file beside the job file")
    return path


def found(folder: Path, name: str) -> Path | None:
    """What has this path from ``folder``; None where nothing has, or can have."""
    try:
        return (folder / name).resolve(strict=True)
    except (OSError, ValueError, RuntimeError):  # too long, with NUL or half a character in it, a circle of links
        return None
