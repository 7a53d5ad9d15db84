"""The arguments of runHPO become a PointWork, or one line that names the argument."""

import shlex
import time
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pilot.panda.runhpo import IDDS, ServerUrl, read_arguments
from pilot.values.errors import BadJob
from pilot.values.hpo import Checkpoints, PointWork

# as the client phpo writes them, with training data, checkpoints, metrics and a segment
PHPO = (
    '-o output.json -j "" --inSampleFile input.json'
    " -a jobO.185663cd-6df9-4ac8-adf9-0d9bf9d5b8a5.tar --sourceURL https://aipanda048.example:25443"
    ' -p "bash%20./exec_in_container.sh%20%3E%20log%202%3E%261"'
    " --checkPointToSave ckpt,model.h5 --checkPointInterval 2 --checkPointToLoad saved.tgz"
    " --writeInputToTxt IN_DATA:input_ds.json"
    """ -i "['a.000001.h5', 'a.000002.h5']" --inMap "{'IN_DATA': ['a.000001.h5', 'a.000002.h5']}" """
    "--outMetaFile=meta.json --segmentID=987654 --outMetricsFile=seg.31.metrics.000001.tgz^metrics.tgz"
)


def read(text):
    return read_arguments(text, 31)


def work(text):
    return read(text).work


def exec_of(text, *more):
    return " ".join(["-p", shlex.quote(quote(text)), *more])


def test_the_arguments_that_phpo_writes():
    asked, inputs = read(PHPO)
    assert asked == PointWork(
        task_id=31,
        command="bash ./exec_in_container.sh > log 2>&1",
        point_file="input.json",
        output_file="output.json",
        meta_file="meta.json",
        metrics=("seg.31.metrics.000001.tgz", "metrics.tgz"),
        data_lists={"input_ds.json": ("a.000001.h5", "a.000002.h5")},
        sandbox="jobO.185663cd-6df9-4ac8-adf9-0d9bf9d5b8a5.tar",
        source="https://aipanda048.example:25443",
        idds="https://iddsserver.cern.ch:443",
        segment=987654,
        checkpoints=Checkpoints(("ckpt", "model.h5"), "saved.tgz", 120.0),
    )
    assert inputs == ("a.000001.h5", "a.000002.h5")


def test_what_is_not_given_is_what_the_wrapper_takes():
    asked, inputs = read("-p true")
    assert (asked.point_file, asked.output_file, asked.meta_file) == (
        "input_sample.json",
        "out.json",
        "out_metadata.json",
    )
    assert (asked.metrics, asked.sandbox, asked.source, asked.segment) == (None, None, None, None)
    assert (asked.checkpoints, asked.most_points, asked.dry_run, asked.idds) == (None, None, False, IDDS)
    assert (dict(asked.data_lists), inputs) == ({}, ())


@pytest.mark.parametrize("text", ["-oanswer.json -ptrue", "-o answer.json -p true", "-o x -o answer.json -p true"])
def test_an_argument_may_be_written_as_getopt_reads_it(text):
    assert work(text).output_file == "answer.json"


def test_what_the_pilot_does_anyway_is_read_over():
    flags = "--debug --preprocess --coprocess --postprocess --pandaID 65 --taskID 99 --pandaURL https://panda.example:1"
    assert work(f"{flags} -p true") == work("-p true")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("--foo", "'--foo' is not known"),
        ("--foo=1", "'--foo' is not known"),
        ("-l libs.tgz", "'-l' is not known"),
        ("-r ./", "'-r' is not known"),
        ("stray", "'stray' is not known"),
        ("--debug=1", "'--debug' is not known"),
        ("--inSample x", "'--inSample' is not known"),
        ("--directIn", "--directIn: direct access"),
        ("--usePFCTurl", "--usePFCTurl: direct access"),
        ("-o", "-o: its value is missing"),
        ("-o ../out.json", "-o: '../out.json' is not a plain file name"),
        ("-o /etc/passwd", "-o: "),
        ("--inSampleFile 'a b'", "--inSampleFile: "),
        ("--outMetaFile=$(id)", "--outMetaFile: "),
        ("-a ../jobO.tar", "-a: "),
        ("--sourceURL ftp://host", "--sourceURL: "),
        ("--sourceURL https://user:word@host", "--sourceURL: "),
        ("--iddsURL https://", "--iddsURL: "),
        ("--iddsURL 'https://host/?x=1'", "--iddsURL: "),
        ("--segmentID x", "--segmentID: 'x' is not a number"),
        ("--segmentID '${SEGMENT_ID}'", "--segmentID: "),
        ("--maxLoopCount -1", "--maxLoopCount: "),
        ("--maxLoopCount 9999999999999999", "--maxLoopCount: "),
        ("--checkPointToSave c --checkPointInterval 0", "--checkPointInterval: "),
        ("--checkPointToSave c --checkPointInterval nan", "--checkPointInterval: "),
        ("--checkPointToSave c --checkPointToLoad ../x", "--checkPointToLoad: "),
        ("--checkPointToSave /etc", "--checkPointToSave: "),
        ("--checkPointToSave a/../../b", "--checkPointToSave: "),
        ("--checkPointToSave .", "--checkPointToSave: "),
        ("--outMetricsFile 'a/b^c'", "--outMetricsFile: "),
        ("--outMetricsFile 'a^../c'", "--outMetricsFile: "),
        ("--inMap \"{'IN': ['../a']}\"", "--inMap: '../a' is not a plain file name"),
        ("--inMap \"{'I N': ['a']}\"", "--inMap: "),
        ("--inMap \"['a']\"", "--inMap: "),
        ('--inMap "{1: 2}"', "--inMap: "),
        ('-i "[1]"', "-i: not a list"),
        ("-i \"__import__('os').getcwd()\"", "-i: "),
        (f"-i '{'[' * 500}'", "-i: "),
        (f"-i '{'[' * 600_000}'", "-i: "),
        ("--writeInputToTxt IN_DATA:input_ds.json", "--writeInputToTxt: no input stream 'IN_DATA'"),
        ("-i \"['a']\" --writeInputToTxt IN:../x", "--writeInputToTxt: "),
        ("-o same.json --inSampleFile same.json", "'same.json' is an input and an output"),
        ("'", "has no end"),
        ('-o "x', "has no end"),
        ("-o x\\", "has no end"),
    ],
    ids=lambda value: value[:40],
)
def test_what_is_not_well_formed_is_refused_and_the_argument_named(text, named):
    with pytest.raises(BadJob) as caught:
        read(f"-p true {text}")
    assert caught.value.field == "jobPars"
    assert named in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["", "-o out.json", "-p ''", "-p %20", "-j bash"])
def test_a_job_that_evaluates_nothing_is_refused(text):
    with pytest.raises(BadJob, match="nothing to evaluate"):
        read(text)


def test_a_text_that_no_process_can_be_given_is_refused():
    with pytest.raises(BadJob, match="NUL"):
        read("-p true%00")


def test_the_prefix_goes_before_the_evaluation_as_it_is():
    assert work("-j 'nice %20' -p 'echo%20%25'").command == "nice %20 echo %"


TEXT = "run %IN_DATA \"%IN_DATA\" --x=%IN '%IN' %INPUT %IN_DATA2 $(a) `b` 100% %s"
MAP = "{'IN_DATA': ['a.h5', 'b.h5'], 'IN': ('c.h5',)}"


def test_streams_in_the_evaluation_become_their_files_and_nothing_else_is_touched():
    asked, inputs = read(exec_of(TEXT, "--inMap", shlex.quote(MAP)))
    assert asked.command == "run a.h5,b.h5 \"a.h5,b.h5\" --x=c.h5 'c.h5' %INPUT %IN_DATA2 $(a) `b` 100% %s"
    assert inputs == ("a.h5", "b.h5", "c.h5")


def test_files_without_a_stream_are_in():
    asked, inputs = read(exec_of("run %IN %IN_DATA", "-i", "\"['a.h5','b.h5']\"", "--writeInputToTxt", "IN:ds.json"))
    assert asked.command == "run a.h5,b.h5 %IN_DATA"
    assert dict(asked.data_lists) == {"ds.json": ("a.h5", "b.h5")}
    assert inputs == ("a.h5", "b.h5")


def test_without_inputs_nothing_is_replaced():
    assert work(exec_of(TEXT)).command == TEXT


def test_an_input_may_be_in_no_stream():
    assert read("-p true --inMap \"{'IN_DATA': ['a']}\" -i \"['a', 'b']\"").inputs == ("a", "b")


def test_no_loop_count_is_no_limit():
    assert work("-p true --maxLoopCount 0").most_points is None
    assert work("-p true --maxLoopCount 3").most_points == 3


def test_the_dry_run_is_kept():
    assert work("-p true --dryRun").dry_run


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://iddsserver.cern.ch:443", "https://iddsserver.cern.ch:443"),
        ("http://127.0.0.1:25080/", "http://127.0.0.1:25080"),
        ("https://host/prefix//", "https://host/prefix"),
    ],
)
def test_an_address_needs_no_path(text, kept):
    assert ServerUrl(text) == work(f"-p true --iddsURL {text}").idds == kept


@given(
    st.lists(
        st.sampled_from([*shlex.split(PHPO), "--inMap", "-i", "%IN", "{}", "[]", "'", '"', "\\", "--", "-", "=", "^"])
        | st.text(max_size=8),
        max_size=12,
    ).map(" ".join)
)
@settings(max_examples=400, deadline=None)
def test_any_text_is_a_work_or_a_bad_job(text):
    try:
        asked, _ = read(text)
    except BadJob as error:
        assert len(str(error).splitlines()) == 1
    else:
        names = [asked.point_file, asked.output_file, asked.meta_file, *asked.data_lists]
        assert all("/" not in name and name not in ("", "..") for name in names)
        assert asked.command.strip()


@given(st.text(st.characters(blacklist_characters="\x00%", blacklist_categories=["Cs"]), min_size=1))
@settings(deadline=None)
def test_an_evaluation_arrives_as_it_was_written(text):
    if text.strip():
        assert work(exec_of(text)).command == text.strip()


@given(st.text("ab -='\"\\\n\t$é", max_size=30))
@settings(max_examples=500, deadline=None)
def test_words_are_those_of_a_shell(text):
    try:
        words = shlex.split(text)
    except ValueError:
        with pytest.raises(BadJob):
            read(f"-p true -o x {text}")
        return
    if len(words) == 1:
        assert work(f"-p true -j {text}").command == f"{words[0]} true".strip()
    elif words and not words[0].startswith("-"):
        with pytest.raises(BadJob, match="not known") as caught:
            read(text)
        assert ascii(words[0])[:50] in str(caught.value)


def test_a_text_of_a_megabyte_is_read_at_once():
    began = time.process_time()
    asked = work("-p true -j '" + "x" * (1 << 20) + "' " + "--debug " * 50_000)
    assert len(asked.command) == (1 << 20) + len(" true")
    assert time.process_time() - began < 5
