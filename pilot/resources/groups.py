"""Where the control groups of this process are seen: its own folders, then those of their visible ancestors.

container-lab.md section 2: in a pod the path in /proc/self/cgroup may be the host's, while the files are at the
mount's root. So the path is taken relative to the root that /proc/self/mountinfo says of the mount; where it is not
below that root, the mount's own folder is all that is known to be ours or an ancestor's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

_PLACE = "sys/fs/cgroup"
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A hierarchy at ``point``, of which ``root`` is the part that is mounted; version 2 has no ``controllers``."""

    point: Path
    root: str = "/"
    controllers: frozenset[str] = frozenset()

    @property
    def unified(self) -> bool:
        """Whether it is of version 2."""
        return not self.controllers

    def folders(self, path: str) -> list[Path]:
        """The group's folder and those of its ancestors, innermost first, as far as they are mounted."""
        inside = _below(path, self.root)
        return [self.point] if inside is None else [self.point / one for one in (inside, *inside.parents)]


def _below(path: str, root: str) -> PurePosixPath | None:
    """Where ``path`` is below the mount's ``root``; None if it is not, or cannot be known.

    Seen from a namespace of control groups, both begin with ``/..`` for each level above the namespace's own root. As
    many on both sides are the same place; with fewer the names of the groups between are not known.
    """
    own, top = PurePosixPath("/", path.lstrip("/")), PurePosixPath("/", root.lstrip("/"))
    inside = own.relative_to(top) if own.is_relative_to(top) else None
    return None if inside is None or ".." in inside.parts else inside


@dataclass(frozen=True, slots=True)
class Groups:
    """``paths``: controller to path, as the kernel writes it; version 2 has the controller ''."""

    paths: Mapping[str, str]
    mounts: tuple[Mount, ...]

    @classmethod
    def find(cls, sysroot: Path = Path("/")) -> Groups:
        """Look now. ``sysroot`` is where proc and sys are looked for."""
        mounts = tuple(parse_mounts(read_text(sysroot / "proc/self/mountinfo"), sysroot))
        return cls(parse_paths(read_text(sysroot / "proc/self/cgroup")), mounts or tuple(_usual_mounts(sysroot)))

    @property
    def version(self) -> int:
        """Who limits processor and memory: 1, 2, or 0 where nothing is seen of either."""
        if any(mount.controllers & {"cpu", "memory"} for mount in self.mounts):
            return 1
        by_v1 = {"cpu", "memory"} & self.paths.keys()  # though we do not see where: such a unified mount limits nothing
        return 2 if not by_v1 and any(mount.unified for mount in self.mounts) else 0

    def folders(self, controller: str) -> list[Path]:
        """Our group's folder and those of its ancestors, innermost first; version 1 where it has the controller."""
        mounts = [mount for mount in self.mounts if controller in mount.controllers]
        path = self.paths.get(controller, "/")
        if not mounts:
            mounts, path = [mount for mount in self.mounts if mount.unified], self.paths.get("", "/")
        return list(dict.fromkeys(folder for mount in mounts for folder in mount.folders(path)))


def parse_paths(text: str) -> dict[str, str]:
    """Controller to path, from /proc/self/cgroup."""
    parts = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    return {name: path for _, names, path in parts for name in names.split(",")}


def parse_mounts(text: str, sysroot: Path = Path("/")) -> Iterable[Mount]:
    """The control groups among the mounts of /proc/self/mountinfo; of several on one place the last is seen."""
    found: dict[str, Mount] = {}
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        place, kind = left.split(" "), right.split(" ")
        if len(place) < 6 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        root, point = (_OCTAL.sub(lambda code: chr(int(code[1], 8)), one) for one in place[3:5])
        controllers = frozenset(kind[2].split(",")) if kind[0] == "cgroup" else frozenset[str]()
        found[point] = Mount(sysroot / point.lstrip("/"), root, controllers)
    return found.values()


def _usual_mounts(sysroot: Path) -> Iterable[Mount]:
    """What stands at the usual place, for a kernel that tells nothing of its mounts."""
    place = sysroot / _PLACE
    if (place / "cgroup.controllers").exists():
        return [Mount(place)]
    try:
        folders = sorted(one for one in place.iterdir() if one.is_dir() and not one.is_symlink())
    except OSError:
        return []
    return [
        Mount(one, "/", frozenset() if (one / "cgroup.controllers").exists() else frozenset(one.name.split(",")))
        for one in folders
    ]


def read_text(file: Path) -> str:
    """What a file of the kernel says, "" where there is none, or it cannot be read."""
    try:
        return os.fsdecode(file.read_bytes()).strip()
    except (OSError, ValueError):  # ValueError: a path with a NUL
        return ""


def read_number(file: Path) -> int | None:
    """A whole number, None for anything else, such as ``max``."""
    return number(read_text(file))


def number(text: str) -> int | None:
    """A whole number of no more digits than the kernel writes; None for anything else."""
    return int(text) if re.fullmatch(r"-?[0-9]{1,20}", text) else None
