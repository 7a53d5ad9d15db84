"""Reads settings from where they stand. The one module that reads the environment; nothing writes it."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pilot.agent.userfile import parse, read_text
from pilot.payload.environment import INHERITED
from pilot.resources.cgroup import read_limits
from pilot.resources.given import Given
from pilot.resources.visible import Visible
from pilot.values.errors import UsageError
from pilot.values.settings import Resolved, environment_names, names, resolve

LOCAL_TOKEN = "PILOT_LOCAL_TOKEN"  # noqa: S105 - a variable's name
DEFAULT_FILE = Path("/etc/pilot/pilot.yaml")


def load(flags: Mapping[str, Any], config: str | None = None, below: Mapping[str, Any] | None = None) -> Resolved:
    """Settings from defaults < ``below`` < file < environment < ``flags``. Raises UsageError."""
    file = Path(config) if config else DEFAULT_FILE
    content = {**(below or {}), **(_read(file) if config or file.exists() else {})}
    resolved = resolve(content, os.environ, flags)
    if resolved.settings.node:
        return resolved
    return replace(resolved, settings=replace(resolved.settings, node=socket.gethostname()))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the environment holds beside settings: what a payload may see of it, GPUs, and limits with their origin."""

    inherited: Mapping[str, str]
    visible: Visible
    given: Given


def visible_gpus() -> Visible:
    """What the environment says of GPUs."""
    return Visible.of(os.environ)


def surroundings(resolved: Resolved) -> Surroundings:
    """Look once, at the start: what a control group states as well is left to it, since it follows a resized pod."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    given = Given.of(resolved.settings, resolved.origins).unless_stated(read_limits())
    return Surroundings(inherited, visible_gpus(), given)


def without_settings() -> dict[str, str]:
    """The environment less whatever sets a setting: for a pilot whose settings are all given to it."""
    steering = {variable for name in names() for variable in environment_names(name)}
    return {name: value for name, value in os.environ.items() if name not in {*steering, LOCAL_TOKEN}}


def local_token() -> str:
    """The token of an embedded server's own calls, as the environment has it; "" without."""
    return os.environ.get(LOCAL_TOKEN, "")


def runtime_places() -> tuple[Path, ...]:
    """Where processes of this user leave notes for each other, the best place first."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return (*([Path(runtime)] if runtime.startswith("/") else []), Path(tempfile.gettempdir()))


def _read(file: Path) -> dict[str, Any]:
    text = read_text(file)
    try:
        content = parse(text)
    except ValueError as error:
        raise UsageError(f"settings file {file}: not YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"settings file {file}: not a mapping of settings")
    return content
