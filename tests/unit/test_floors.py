"""The floors of ARCHITECTURE.md: a floor imports lower floors only, and the tools do not import each other."""

import ast
from pathlib import Path

import pytest

PILOT = Path(__file__).parents[2] / "pilot"
FLOORS = {
    "values": 0,
    "net": 1,
    "processes": 1,
    "files": 1,
    "panda": 2,
    "resources": 2,
    "staging": 2,
    "payload": 2,
    "runner": 3,
    "agent": 4,
}
SIBLINGS_ALLOWED = {("payload", "resources")}


def imports_of(file: Path):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module


def room_of(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


ALL = sorted(PILOT.rglob("*.py"))


@pytest.mark.parametrize("file", ALL, ids=lambda file: str(file.relative_to(PILOT)))
def test_a_module_imports_lower_floors_only(file):
    room = file.relative_to(PILOT).parts[0]
    used = {room_of(name) for name in imports_of(file) if name.startswith("pilot.")} - {"", room}
    if room == "embedded":
        assert used <= {"values"}
    elif room in FLOORS:
        for other in used - ({"embedded"} if file.name == "serve_command.py" else set()):
            lower = FLOORS[other] < FLOORS[room]
            assert lower or (room, other) in SIBLINGS_ALLOWED, f"{room} imports {other}"


def test_only_one_module_reads_the_environment_and_none_writes_it():
    readers = {
        str(file.relative_to(PILOT))
        for file in ALL
        if file.relative_to(PILOT).parts[0] != "embedded"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in {("os", "environ"), ("os", "getenv"), ("os", "putenv")}
    }
    # the lane's worker is a process of its own: its environment is the parent's message to it
    assert readers <= {"agent/configuration.py", "staging/worker/__main__.py"}


def test_no_shell_but_the_payloads():
    for file in ALL:
        text = file.read_text()
        assert "shell=True" not in text
        assert "os.system" not in text
        assert ('"/bin/sh", "-c"' in text) == (file.name == "process.py"), file
