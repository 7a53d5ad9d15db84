"""Files that people write: values of JSON, within limits, or one line that says what is wrong."""

import json
from urllib.parse import quote

import pytest

from pilot.agent import configuration
from pilot.agent.local.jobfile import read_job_file
from pilot.agent.local.studyfile import read_study_file
from pilot.agent.userfile import parse
from pilot.values.errors import UsageError
from tests.studies import study

BOMB = "a: [" + ", ".join(f"&x{n} [{', '.join([f'*x{n - 1}' if n else 'x'] * 9)}]" for n in range(9)) + "]\n"
MERGES = "\n".join(
    f"m{n}: &m{n} {{{'<<: [' + ', '.join([f'*m{n - 1}'] * 9) + '],' if n else ''} k{n}: 1}}" for n in range(9)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: 1\nb: [x, 1.5, true, ~]", {"a": 1, "b": ["x", 1.5, True, None]}),
        ("base: &b {x: 1}\nown: {<<: *b, y: 2}", {"base": {"x": 1}, "own": {"x": 1, "y": 2}}),
        ("when: 2024-01-01", {"when": "2024-01-01"}),
        ("when: 2024-99-99 10:00:00", {"when": "2024-99-99 10:00:00"}),
        ('{"a": 1e2, "b": "\\u00e9"}', {"a": 100.0, "b": "é"}),
        ("{a: 1}", {"a": 1}),
    ],
)
def test_what_json_has_is_read_and_a_date_is_a_text(text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "more than"),
        ("a: &a [*a]", "nested deeper"),
        ("a: " + "[" * 200 + "]" * 200, "nested"),
        ("a: " + "[" * 5000, "nested"),
        ('{"a": ' + "[" * 5000 + "]" * 5000 + "}", "nested"),
        ("a: .inf", "no number"),
        ("a: 1e999", None),
        ('{"a": NaN}', "NaN"),
        ("a: 0x" + "f" * 5000, "beyond all measure"),
        ("a: " + "9" * 5000, "4300"),
        ("a: !!timestamp 1", "timestamp"),
        ("a: !!binary x", "binary"),
        ("a: !!set {x}", "set"),
        ("a: !!int x", "int"),
        ("a: !!bool x", "x"),
        ("a: !!float ''", "index"),
        ("a: !!python/object:os.system {}", "python"),
        ('a: "\\ud800"', "half a character"),
        ('{"a": "\\ud800"}', "half a character"),
        ('{"a": {"\\u0000": 1}}', "NUL"),
        ('{"a": 1, "a": 2}', "twice"),
        ("a: [", "flow"),
        ("x" * (1 << 20) + ": 1", "write it as JSON"),
    ],
)
def test_what_is_too_much_or_no_value_of_json_is_refused(text, why):
    if why is None:
        assert parse(text) == {"a": "1e999"}  # to YAML a text
        return
    with pytest.raises(ValueError, match=why) as refusal:
        parse(text)
    assert len(str(refusal.value)) < 400


def test_mappings_that_are_merged_into_each_other_do_not_grow_without_end():
    """PyYAML before 6.0.4 makes 9^8 pairs of these."""
    try:
        assert len(parse(MERGES)["m8"]) == 9
    except ValueError as error:
        assert "merges too much" in str(error)


@pytest.mark.parametrize(
    "text",
    ["max_jobs: .inf", "server: [http://h]", "idle: {a: 1}", "in_pod: [true]", "checkpoints: [[a]]",
    "checkpoints: {a: b}",
     "node: {x: &a [*a]}", "max_jobs: 1e300", 'storage_credentials: ["a\\nb"]'],
)  # fmt: skip
def test_a_setting_of_another_kind_is_refused_by_its_name(tmp_path, text):
    file = tmp_path / "pilot.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as refusal:
        configuration.load({}, str(file))
    assert text.partition(":")[0] in str(refusal.value) or "settings file" in str(refusal.value)


@pytest.mark.parametrize("pattern", ["(" * 5000 + "x" + ")" * 5000, "(x{99999999999})", "(?P<" + "l" * 5000, "(["])
def test_a_pattern_that_is_none_is_refused_in_a_short_line(pattern):
    with pytest.raises(UsageError, match="progress_pattern") as refusal:
        configuration.load({"progress_pattern": pattern})
    assert len(str(refusal.value)) < 400


NAMES = ["x" * 300, "x/" * 3000, "circle", "circle/x", "missing"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:20])
def test_a_file_that_cannot_be_is_said_to_be_missing(tmp_path, name):
    (tmp_path / "circle").symlink_to("circle")
    file = tmp_path / "file.json"
    for key in ("inputs", "sandbox"):
        file.write_text(json.dumps({"command": "true", key: [name]}))
        with pytest.raises(UsageError, match="no such file"):
            read_job_file(file)
        file.write_text(json.dumps(study(evaluation={key: [name]})))
        with pytest.raises(UsageError, match="no such file"):
            read_study_file(file)
    file.write_text(json.dumps({"PandaID": 1, "inFiles": name}))
    with pytest.raises(UsageError, match="is not in"):
        read_job_file(file, tmp_path)


@pytest.mark.parametrize("name", ["a\0b", "é\ud800"], ids=ascii)
def test_a_line_like_a_urls_may_name_what_no_file_can_be_called(tmp_path, name):
    """As Harvester writes it; its texts are no JSON."""
    file = tmp_path / "job"
    file.write_text(f"PandaID=1&inFiles={quote(name, errors='surrogatepass')}")
    with pytest.raises(UsageError, match="is not in"):
        read_job_file(file, tmp_path)


def test_urls_of_a_panda_job_that_are_no_mapping_are_refused(tmp_path):
    (tmp_path / "file.json").write_text('{"PandaID": 1, "inputUrls": [1]}')
    with pytest.raises(UsageError, match="inputUrls"):
        read_job_file(tmp_path / "file.json")
