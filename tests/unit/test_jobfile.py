"""A job file's inputs, from what a user writes to the definition that a pilot gets."""

import pytest

from pilot.agent.local.jobfile import read_job_file
from pilot.embedded.definition import parse
from pilot.panda.decode import decode_job
from pilot.values.errors import UsageError


def written(folder, inputs):
    file = folder / "job.yaml"
    file.write_text(f"command: 'true'\ninputs: {inputs}\n")
    (folder / "words.txt").touch()
    (folder / "other.txt").touch()
    return read_job_file(file)


def urls(job):
    """The inputs as the pilot sees them."""
    definition = parse({"definition": job.uploaded(lambda path: f"http://store/{path.name}")}).build(1)
    return {file.lfn: list(file.urls) for file in decode_job(definition).inputs}


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        ("[words.txt]", {"words.txt": ["http://store/words.txt"]}),
        ("[{url: 'http://a/w?x=1'}]", {"w": ["http://a/w?x=1"]}),
        ("[{url: ['http://a/w', 'root://b//w']}]", {"w": ["http://a/w", "root://b//w"]}),
        ("[{url: ['http://a/w', words.txt]}]", {"w": ["http://store/words.txt", "http://a/w"]}),
        ("[{url: ['http://a/w']}]", {"w": ["http://a/w"]}),
        ("['https://h/words.txt.meta4']", {"words.txt": ["https://h/words.txt.meta4"]}),
        ("[{url: 'https://h/w.metalink', name: w.metalink}]", {"w.metalink": ["https://h/w.metalink"]}),
    ],
)
def test_an_input_has_one_place_or_several(inputs, found, tmp_path):
    assert urls(written(tmp_path, inputs)) == found


@pytest.mark.parametrize(
    ("inputs", "why"),
    [
        ("[{url: []}]", "not a mapping with a url"),
        ("[{url: [words.txt, other.txt]}]", "words.txt and other.txt"),
        ("[{url: [nothing.txt]}]", "no such file"),
    ],
)
def test_what_is_no_place_is_refused(inputs, why, tmp_path):
    with pytest.raises(UsageError, match=why):
        written(tmp_path, inputs)


@pytest.mark.parametrize("url", [[], ["http://a/w", "gopher://b/w"], ["http://a/w", 5], 5])
def test_the_embedded_server_refuses_what_is_no_url(url):
    with pytest.raises(ValueError, match=r"inputs\[0\]"):
        parse({"definition": {"command": "true", "inputs": [{"name": "w", "url": url}]}})
