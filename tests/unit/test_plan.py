"""From a definition, queue and storage data to the routes of every file."""

import pytest

from pilot.panda.decode import decode_job
from pilot.runner.past import trusted
from pilot.staging.planning.plan import STRAIGHT, Trust, Vias, make_plan
from pilot.values.errors import (
    BadJob,
    FileMissing,
    Mismatch,
    NonDeterministic,
    NoStorage,
    StageError,
    TransferFailed,
    UntrustedUrl,
)
from pilot.values.names import Checksum, Url
from pilot.values.site import Site, deterministic_path, parse_queue, parse_storages


def storage(*endpoints, site="", **more):
    """The same protocols for every activity."""
    protocols = [{"endpoint": endpoint, "path": "/d/"} for endpoint in endpoints]
    return {"arprotocols": dict.fromkeys(("read_lan", "write_lan"), protocols), "site": site, **more}


STORAGES = {
    "FAR": storage("gsiftp://far/", "root://far:1094/", "davs://far:443/"),
    "OURS": storage("https://ours/", site="SITE"),
    "NEAR": storage("root://near:1094/", "https://Near:443/"),
    "TAPE": storage("https://tape/", is_deterministic=False),
    "PLAIN": storage("http://plain/"),
    "DISK": storage("file://"),
}
QUEUE = {"atlas_site": "SITE", "astorages": {"pw": ["OURS", "FAR"], "pl": ["PLAIN"], "read_lan": ["NEAR"]}}
SITE = Site(parse_queue("Q", QUEUE), parse_storages(STORAGES))
WORDS = deterministic_path("user.a", "words.txt")


def job(**fields):
    return decode_job({"PandaID": 7, "attemptNr": 2, "transformation": "x", "jobPars": "", **fields})


def reads(*urls, **fields):
    """A job with one input."""
    given = {"inputUrls": {"words.txt": list(urls)}} if urls else {}
    return job(inFiles="words.txt", scopeIn="user.a", **given, **fields)


def writes(**fields):
    """A job with one output and a log."""
    return job(outFiles="out.txt,log.tgz", scopeOut="user.a", logFile="log.tgz", scopeLog="user.a", **fields)


def plan_of(one, tmp_path, vias=STRAIGHT, site=SITE, roots=()):
    return make_plan(one, site, tmp_path, Trust(roots), vias)


def sources(one, tmp_path, **more):
    """Where each route of the one input begins."""
    (transfer,) = plan_of(one, tmp_path, **more).inputs
    assert all(route.destination.path == str(tmp_path / "words.txt") for route in transfer.routes)
    return [str(route.source) for route in transfer.routes]


def places(one, tmp_path, lfn="out.txt", **more):
    return [(str(way.url), way.endpoint, way.via) for way in plan_of(one, tmp_path, **more).destinations[lfn]]


# --- inputs


def test_a_url_may_be_one_or_several(tmp_path):
    assert sources(job(inFiles="words.txt", inputUrls={"words.txt": "http://a/w"}), tmp_path) == ["http://a/w"]
    assert sources(reads("http://b/w", "http://a/w", "http://b/w"), tmp_path) == ["http://b/w", "http://a/w"]


@pytest.mark.parametrize("urls", [[], ["http://h/w", "gopher://h/w"], ["http://h/w", 5], {}])
def test_a_list_that_holds_anything_but_urls_is_refused(urls):
    with pytest.raises(BadJob, match="inputUrls"):
        job(inFiles="words.txt", inputUrls={"words.txt": urls})


def test_an_endpoint_is_read_by_each_protocol_that_we_speak_in_the_order_of_activities(tmp_path):
    assert sources(reads(ddmEndPointIn="FAR"), tmp_path) == [f"root://far:1094//d/{WORDS}", f"davs://far:443/d/{WORDS}"]


def test_a_jobs_urls_come_before_its_endpoint_and_local_ones_before_distant_ones(tmp_path):
    far, near, ours = "https://elsewhere/w", f"https://Near:443/d/{WORDS}", "https://ours/d/w"
    found = sources(reads(far, near, ours, ddmEndPointIn="FAR"), tmp_path)
    assert found == [near, ours, far, f"root://far:1094//d/{WORDS}", f"davs://far:443/d/{WORDS}"]
    assert sources(reads(far, ddmEndPointIn="OURS"), tmp_path) == [f"https://ours/d/{WORDS}", far]


def test_our_own_file_system_comes_first(tmp_path):
    (tmp_path / "w").touch()
    found = sources(reads("https://ours/d/w", f"file://{tmp_path}/w"), tmp_path, roots=(str(tmp_path),))
    assert found == [f"file://{tmp_path}/w", "https://ours/d/w"]


def test_a_file_url_that_is_not_trusted_is_passed_over(tmp_path):
    assert sources(reads("file:///etc/passwd", "http://a/w"), tmp_path) == ["http://a/w"]
    with pytest.raises(UntrustedUrl, match="input_roots"):
        sources(reads("file:///etc/passwd"), tmp_path)
    (tmp_path / "link").symlink_to("/etc")
    with pytest.raises(UntrustedUrl):
        sources(reads(f"file://{tmp_path}/link/passwd"), tmp_path, roots=(str(tmp_path),))


@pytest.mark.parametrize(
    ("fields", "error", "why"),
    [
        ({"ddmEndPointIn": "NONE"}, NoStorage, "no endpoint NONE"),
        ({}, NoStorage, "neither the job nor the queue"),
        ({"ddmEndPointIn": "TAPE"}, NonDeterministic, "TAPE is not deterministic"),
    ],
)
def test_an_input_without_a_place_is_named_with_the_reason(fields, error, why, tmp_path):
    with pytest.raises(error, match=f"words.txt.*{why}"):
        sources(reads(**fields), tmp_path)


def test_an_endpoint_of_no_use_costs_nothing_where_there_is_a_url(tmp_path):
    assert sources(reads("http://a/w", ddmEndPointIn="NONE"), tmp_path) == ["http://a/w"]


def test_a_program_is_not_linked_for_it_gets_other_permissions(tmp_path):
    linked = {one.name: one.link for one in plan_of(
        job(inFiles="run.sh,words.txt", sandbox=["run.sh"], inputUrls={"run.sh": "http://a/r", "words.txt": "http://a/w"}),
        tmp_path).inputs}  # fmt: skip
    assert linked == {"run.sh": False, "words.txt": True}


# --- metalinks


DOCUMENT = Url("https://h/words.txt.meta4")
META = b"""<metalink><file name="words.txt"><size>12</size><hash type="adler32">024d0127</hash>
<url priority="2">https://far/w</url><url priority="1">root://x//w</url><url priority="3">file:///etc/passwd</url>
</file></metalink>"""


def completed(one, tmp_path, found):
    (transfer,) = plan_of(one, tmp_path).complete({DOCUMENT: found})
    return transfer


def test_a_metalink_stands_for_the_places_that_it_names(tmp_path):
    plan = plan_of(reads("http://first/w", DOCUMENT, "http://last/w"), tmp_path)
    assert (plan.inputs, plan.documents) == ((), (DOCUMENT,))
    (transfer,) = plan.complete({DOCUMENT: META})
    found = [route.source for route in transfer.routes]
    assert found == ["http://first/w", "root://x//w", "https://far/w", "http://last/w"]
    assert (transfer.size, transfer.checksum) == (12, Checksum("adler32", "024d0127"))


def test_a_job_that_wants_the_metalink_itself_calls_its_file_so(tmp_path):
    plan = plan_of(job(inFiles="w.meta4", inputUrls={"w.meta4": DOCUMENT}), tmp_path)
    assert plan.documents == ()
    assert [route.source for route in plan.inputs[0].routes] == [DOCUMENT]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"fsize": "13"}, "13 bytes, and 12 in the metalink https://h/words.txt.meta4"),
        ({"checksum": "ad:00000001"}, "adler32:00000001, and adler32:024d0127 in the metalink"),
    ],
)
def test_a_metalink_that_contradicts_the_catalogue_is_a_mismatch_that_names_both(fields, why, tmp_path):
    with pytest.raises(Mismatch, match=why):
        completed(reads(DOCUMENT, **fields), tmp_path, META)


def test_the_catalogues_checksum_is_the_one_that_counts(tmp_path):
    transfer = completed(reads(DOCUMENT, checksum="md:" + "0" * 32), tmp_path, META)
    assert transfer.checksum == Checksum("md5", "0" * 32)


@pytest.mark.parametrize("found", [FileMissing("words.txt: gone"), b"<html/>"])
def test_a_metalink_that_cannot_be_had_matters_only_where_nothing_else_is_left(found, tmp_path):
    transfer = completed(reads(DOCUMENT, "http://a/w"), tmp_path, found)
    assert [route.source for route in transfer.routes] == ["http://a/w"]
    with pytest.raises((FileMissing, TransferFailed), match=r"words\.txt: (gone|metalink .*no metalink)"):
        completed(reads(DOCUMENT), tmp_path, found)


def test_a_metalink_of_our_own_disk_must_be_trusted_too(tmp_path):
    with pytest.raises(UntrustedUrl):
        plan_of(reads("file:///etc/w.meta4"), tmp_path)


# --- outputs


def test_an_output_goes_where_the_job_says_by_each_protocol(tmp_path):
    out = deterministic_path("user.a", "out.txt")
    found = places(writes(ddmEndPointOut="FAR,OURS"), tmp_path)
    assert found == [(f"root://far:1094//d/{out}", "FAR", None), (f"davs://far:443/d/{out}", "FAR", None)]


def test_where_the_job_says_nothing_the_queues_storages_are_meant(tmp_path):
    plan = plan_of(writes(), tmp_path)
    assert {lfn: ways[0].endpoint for lfn, ways in plan.destinations.items()} == {"out.txt": "OURS", "log.tgz": "PLAIN"}


def test_a_second_storage_is_used_where_job_or_queue_allows_it(tmp_path):
    generous = Site(parse_queue("Q", {**QUEUE, "params": "{'allow_altstageout': 'True'}"}), SITE.storages)

    def endpoints(lfn="out.txt", site=SITE, **fields):
        ways = plan_of(writes(**fields), tmp_path, site=site).destinations[lfn]
        return list(dict.fromkeys(way.endpoint for way in ways))

    assert endpoints() == ["OURS"]
    assert endpoints(altStageOut="on") == endpoints(site=generous) == ["OURS", "FAR"]
    assert endpoints(altStageOut="off", site=generous) == ["OURS"]
    assert endpoints("log.tgz", altStageOut="on") == ["PLAIN", "OURS", "FAR"]
    assert endpoints(altStageOut="on", ddmEndPointOut="DISK,DISK") == ["DISK", "OURS", "FAR"]


def test_an_alternative_that_cannot_take_the_file_is_passed_over(tmp_path):
    queue = {**QUEUE, "astorages": {"pw": ["OURS", "TAPE", "NONE", "PLAIN"]}}
    ways = plan_of(writes(altStageOut="on"), tmp_path, site=Site(parse_queue("Q", queue), SITE.storages))
    assert [way.endpoint for way in ways.destinations["out.txt"]] == ["OURS", "PLAIN"]


def test_an_endpoint_that_is_not_known_is_named(tmp_path):
    with pytest.raises(NoStorage, match=r"out\.txt: .*no endpoint NONE") as caught:
        plan_of(writes(ddmEndPointOut="NONE,OURS"), tmp_path)
    assert caught.value.code == 1313


# --- by way of a storage near us


def hops(route):
    return [(str(hop.source), str(hop.destination), hop.third_party, hop.passing) for hop in route.hops]


def test_an_output_passes_by_the_storage_near_us_and_goes_straight_at_last(tmp_path):
    ways = plan_of(writes(ddmEndPointOut="FAR,FAR"), tmp_path, Vias(outputs="NEAR")).destinations
    out, log = (deterministic_path("user.a", name) for name in ("out.txt", "log.tgz"))
    near = f"https://Near:443/d/{deterministic_path('via.7.2', 'out.txt')}"
    source = Url(f"file://{tmp_path}/out.txt")
    assert [hops(way.route(source)) for way in ways["out.txt"]] == [
        [(source, near, None, True), (near, f"davs://far:443/d/{out}", "pull", False)],
        [(source, f"root://far:1094//d/{out}", None, False)],
        [(source, f"davs://far:443/d/{out}", None, False)],
    ]
    assert ways["log.tgz"][0].url == f"davs://far:443/d/{log}"
    assert ways["log.tgz"][0].via is not None


def test_two_attempts_never_meet_in_the_storage_near_us(tmp_path):
    jobs = [writes(**fields) for fields in ({}, {"attemptNr": 3}, {"PandaID": 8})]
    assert len({plan_of(one, tmp_path, Vias(outputs="NEAR")).destinations["out.txt"][0].via for one in jobs}) == 3


def test_storages_that_cannot_copy_to_each_other_are_not_asked_to(tmp_path, caplog):
    assert [via for *_, via in places(writes(ddmEndPointOut="DISK,OURS"), tmp_path, vias=Vias(outputs="NEAR"))] == [
        None
    ]
    assert "no protocol in common" in str(caplog.records[0].__dict__)
    assert [via for *_, via in places(writes(ddmEndPointOut="OURS,OURS"), tmp_path, vias=Vias(outputs="OURS"))] == [
        None
    ]


def test_a_distant_input_is_copied_to_the_storage_near_us_and_read_there(tmp_path):
    (transfer,) = plan_of(reads(ddmEndPointIn="FAR"), tmp_path, Vias(inputs="NEAR")).inputs
    target, copy = f"file://{tmp_path}/words.txt", f"https://Near:443/d/{WORDS}"
    assert [hops(route) for route in transfer.routes] == [
        [(f"davs://far:443/d/{WORDS}", copy, "pull", False), (f"root://near:1094//d/{WORDS}", target, None, False)],
        [(f"root://far:1094//d/{WORDS}", target, None, False)],
        [(f"davs://far:443/d/{WORDS}", target, None, False)],
    ]


def test_an_input_that_is_at_hand_is_not_copied_first(tmp_path):
    at_near = f"https://Near:443/d/{WORDS}"
    (transfer,) = plan_of(reads("http://a/w", at_near), tmp_path, Vias(inputs="NEAR")).inputs
    assert [(route.source, len(route.hops)) for route in transfer.routes] == [
        (at_near, 1), ("http://a/w", 2), ("http://a/w", 1),
    ]  # fmt: skip
    (transfer,) = plan_of(reads(f"file://{tmp_path}/w"), tmp_path, Vias(inputs="NEAR"), roots=(str(tmp_path),)).inputs
    assert [len(route.hops) for route in transfer.routes] == [1]


def test_two_files_of_one_name_do_not_meet_in_the_storage_near_us(tmp_path):
    def copy(url):
        return plan_of(reads(url), tmp_path, Vias(inputs="NEAR")).inputs[0].routes[0].hops[0].destination

    assert copy("http://a/w") != copy("http://b/w")
    assert copy("http://a/w") == copy("http://a/w")


@pytest.mark.parametrize(
    ("vias", "key"), [(Vias(inputs="NO_SUCH"), "stagein_via"), (Vias(outputs="NO_SUCH"), "stageout_via")]
)
def test_a_storage_near_us_that_nobody_knows_is_named_with_its_setting(vias, key, tmp_path):
    one = reads("http://a/w", outFiles="out.txt", scopeOut="user.a")
    with pytest.raises(NoStorage, match=f"{key} names NO_SUCH"):
        plan_of(one, tmp_path, vias)


def test_a_setting_comes_before_the_queues_word():
    queue = parse_queue("Q", {"params": {"stagein_via": "A", "stageout_via": "NULL"}})
    assert Vias.chosen("", "", queue) == Vias("A", "")
    assert Vias.chosen("B", "C", queue) == Vias("B", "C")


# --- what only the site says


def test_the_sites_origins_are_the_servers_of_its_storages():
    storages = parse_storages({"A": storage("root://me@EOS:1094/", "file://", "https://h/")})
    assert Site(SITE.queue, storages).origins() == {"eos:1094", "h"}


def test_a_next_life_trusts_the_sites_own_servers_and_none_that_a_job_has_named(tmp_path):
    extended = Site(SITE.queue, {**SITE.storages, **parse_storages({"EVIL": storage("https://evil/")})})
    ways = plan_of(writes(ddmEndPointOut="EVIL,FAR"), tmp_path, site=extended).destinations
    assert trusted(ways, SITE) == ["far:1094", "far:443"]


def test_params_that_are_no_mapping_are_none():
    for params in (None, "NULL", "x", [], 5):
        assert parse_queue("Q", {"params": params}).params == {}


def test_a_renamed_way_keeps_its_directory(tmp_path):
    way = plan_of(writes(), tmp_path).destinations["out.txt"][0]
    assert way.renamed(".7.2").url == way.url + ".7.2"


def test_every_failure_of_a_plan_is_a_stage_error(tmp_path):
    broken = parse_storages({"BAD": storage("https://h:port/")})
    with pytest.raises(StageError, match="BAD"):
        plan_of(writes(ddmEndPointOut="BAD,BAD"), tmp_path, site=Site(SITE.queue, broken))
