"""Copies from one web server to another: real ones between xrootd servers, and faulty ones."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from pilot.staging.order import Around, Order, Side
from pilot.staging.worker.copy import copy
from pilot.staging.worker.web import http, third_party
from pilot.values.errors import (
    Denied,
    Exists,
    FileMissing,
    Mismatch,
    NoSpace,
    StageError,
    Stalled,
    TransferFailed,
    Unreachable,
)
from tests.storage.fault_server import BODY

CHECKSUM = ("adler32", f"{zlib.adler32(BODY):08x}")


class Told:
    """A report that keeps what it is told."""

    def __init__(self) -> None:
        self.totals: list[int] = []

    def moved(self, total_bytes: int) -> None:
        self.totals.append(total_bytes)

    def writing(self, url: str) -> None: ...

    def verifying(self, size: int) -> None: ...

    def note(self, text: str, **keys: object) -> None: ...


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def around(ca_path: str) -> Around:
    return Around(connect_s=3, idle_s=20, keep_s=5, ca_path=ca_path, http_proxy="")


def order(source: Side | str, destination: Side | str, how: str = "pull", *, overwrite: bool = False) -> Order:
    sides = [side if isinstance(side, Side) else Side(side) for side in (source, destination)]
    return Order(*sides, len(BODY), CHECKSUM, False, overwrite, how)


@pytest.mark.parametrize("how", ["pull", "push"])
@pytest.mark.parametrize("scheme", ["http", "davs"])
def test_one_xrootd_copies_from_or_to_another(scheme, how, xrootd, second_xrootd, around, told):
    xrootd.put("tpc/in", BODY)
    target = f"{scheme}-{how}/a/b/out"

    done = copy(order(getattr(xrootd, scheme)("tpc/in"), getattr(second_xrootd, scheme)(target), how), told, around)

    assert (second_xrootd.data / target).read_bytes() == BODY
    assert done == (len(BODY), CHECKSUM[1], "checksum", False)


@pytest.mark.parametrize("how", ["pull", "push"])
def test_each_side_gets_its_own_token(how, guarded, guarded_fetcher, issuer, around, told):
    guarded.put("secret/in", BODY)
    read = issuer.token("storage.read:/secret", audience=guarded.audiences[0])
    write = issuer.token(f"storage.create:/{how} storage.read:/{how}", audience=guarded_fetcher.audiences[0])

    copy(
        order(Side(guarded.davs("secret/in"), read), Side(guarded_fetcher.davs(f"{how}/out"), write), how),
        told,
        around,
    )

    assert (guarded_fetcher.data / f"{how}/out").read_bytes() == BODY


@pytest.mark.parametrize("how", ["pull", "push"])
def test_a_token_without_the_right_is_denied_and_nothing_is_left(how, guarded, guarded_fetcher, issuer, around):
    guarded.put("secret/in", BODY)
    read = issuer.token("storage.read:/elsewhere" if how == "pull" else "storage.read:/secret")
    write = issuer.token("storage.modify:/" if how == "pull" else "storage.read:/")
    what = order(Side(guarded.davs("secret/in"), read), Side(guarded_fetcher.davs(f"denied-{how}"), write), how)

    with pytest.raises(Denied) as caught:
        third_party.copy(what, Told(), around)

    assert read not in str(caught.value)
    assert write not in str(caught.value)


def test_a_file_that_is_there_already_is_not_overwritten(xrootd, second_xrootd, around, told):
    xrootd.put("tpc/in", BODY)
    old = second_xrootd.put("there", b"old")

    with pytest.raises(Exists):
        third_party.copy(order(xrootd.http("tpc/in"), second_xrootd.http("there")), told, around)
    assert old.read_bytes() == b"old"

    third_party.copy(order(xrootd.http("tpc/in"), second_xrootd.http("there"), overwrite=True), told, around)
    assert old.read_bytes() == BODY


def test_a_source_that_is_not_there_is_told_as_such(xrootd, second_xrootd, around, told):
    for how, words in (("pull", "404"), ("push", "no such file")):
        with pytest.raises(FileMissing, match=words):
            third_party.copy(order(xrootd.http("nowhere"), second_xrootd.http("out-of-nothing"), how), told, around)


def test_a_source_that_nobody_can_reach_is_told_as_such(second_xrootd, around, told):
    with pytest.raises(Unreachable, match="connect"):
        third_party.copy(order("http://127.0.0.1:9/f", second_xrootd.http("out")), told, around)


def test_a_full_disk_at_the_target_is_told_and_cleared(xrootd, second_xrootd, around, told):
    xrootd.put("tpc/large", BODY * 3)
    with second_xrootd.small_disk("full") as disk:
        what = order(xrootd.http("tpc/large"), second_xrootd.http("full/out"))

        with pytest.raises(NoSpace):
            copy(what._replace(size=None, checksum=None), told, around)

        assert list(disk.iterdir()) == []


# Faulty servers


def pulled(faults, path: str, told: Told, around: Around, **changes: object) -> None:
    what = order("https://source.example.org/f?authz=s3cret", faults.url(path))
    third_party.copy(what._replace(**changes), told, around)


@pytest.mark.parametrize("path", ["copied/200", "copied/201", "copied/202", "plain/x"])
def test_success_is_what_the_last_line_says(path, faults, told, around):
    pulled(faults, path, told, around)

    assert told.totals == ([len(BODY)] if "copied" in path else [])


def test_the_headers_of_a_pull_and_of_a_push(secure_faults, told, around):
    source, target = Side(secure_faults.url("in"), "read-token"), Side(secure_faults.url("out"), "write-token")

    third_party.copy(order(source, target), told, around)
    third_party.copy(order(source, target, "push", overwrite=True), told, around)

    pull, push = (seen.headers for seen in secure_faults.seen)
    names = ("Source", "Destination", "Authorization", "TransferHeaderAuthorization", "Overwrite", "Credential")
    expected = [source.url, None, "Bearer write-token", "Bearer read-token", "F", "none"]
    assert [pull[name] for name in names] == expected
    expected = [None, target.url, "Bearer read-token", "Bearer write-token", "T", "none"]
    assert [push[name] for name in names] == expected


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("copyfails/x", FileMissing, "status code 404"),
        ("copycut/x", Unreachable, "IncompleteRead|broke off|ended prematurely"),
        ("copyunsaid/x", Unreachable, "has not told how it ended"),
        ("copyhtml/x", Unreachable, "has not told how it ended"),
        ("code/405", TransferFailed, "makes no third-party copies"),
        ("code/501", TransferFailed, "makes no third-party copies"),
        ("code/400/x", TransferFailed, "makes no third-party copies"),
        ("code/401", Denied, "HTTP 401"),
        ("code/412", Exists, "HTTP 412"),
        ("code/507", NoSpace, "HTTP 507"),
        ("loop/x", TransferFailed, "more than 5 redirects"),
    ],
)
def test_everything_else_is_a_failure_with_its_word(path, error, words, faults, told, around):
    with pytest.raises(error, match=words) as caught:
        pulled(faults, path, told, around)

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("path", ["copystalls/x", "copysilent/x"])
def test_a_copy_that_stands_still_is_given_up_though_markers_come(path, faults, told, around):
    faults.marker_s = 0.05

    with pytest.raises(Stalled):
        pulled(faults, path, told, around._replace(idle_s=0.4))

    assert told.totals == ([1 << 20] if "stalls" in path else [])


def test_a_slow_copy_is_none_that_stands_still(faults, told, around):
    # It takes longer than the limit for standing still, and grows all the time.
    faults.marker_s = 0.1

    pulled(faults, "copyslow/10", told, around._replace(idle_s=0.5))

    assert len(told.totals) == 10


def test_no_token_goes_on_to_another_server(secure_faults, secure_canary, told, around):
    source = Side("https://source.example.org/f", "read-token")
    target = Side(secure_faults.away(secure_canary.url("out")), "write-token")

    third_party.copy(order(source, target), told, around._replace(redirects=("127.0.0.1",)))

    assert secure_faults.tokens == ["Bearer write-token"]
    assert [seen.method for seen in secure_canary.seen] == ["COPY"]
    assert secure_canary.seen[0].headers["Source"] == source.url
    assert "token" not in str(secure_canary.seen[0].headers.items())


def test_a_copy_is_not_asked_for_at_another_origin(secure_faults, secure_canary, told, around):
    with pytest.raises(TransferFailed, match="another origin"):
        third_party.copy(
            order("https://source.example.org/f", secure_faults.away(secure_canary.url("out"))), told, around
        )

    assert secure_canary.seen == []


ENDS = {
    b"failed: no route to the source": "no route to the source",
    b"FAILED:no route to the source": "no route to the source",
    b"Failed : no route to the source\n": "no route to the source",
    b"aborted: no route to the source": "no route to the source",
    b"Aborted:  no route to the source\r\n": "no route to the source",
    b"ABORTED :no route to the source": "no route to the source",
    b"failure: no route to the source": "no route to the source",
    b"FAILURE no route to the source": "no route to the source",
    b"error: no route to the source": "no route to the source",
    b"aborted": "it gives no reason",
    b"failed:": "it gives no reason",
}


@pytest.mark.parametrize("at", [0, 3, 8, 15])
@pytest.mark.parametrize("end", ENDS)
def test_a_copy_that_ends_badly_keeps_its_reason(end, at, faults, told, around):
    faults.ends = [end[:at], end[at:]]

    with pytest.raises(TransferFailed, match=ENDS[end]):
        pulled(faults, "copyends/x", told, around)


def test_a_reason_with_a_status_in_it_has_its_word_however_it_ends(faults, told, around):
    faults.ends = [b"aborted: rejected PUT: 403 Forbidden; HTTP status 403"]

    with pytest.raises(Denied, match="rejected PUT"):
        pulled(faults, "copyends/x", told, around)


def test_figures_on_the_way_are_no_end(faults, told, around):
    faults.ends = [b"Failed Stripe Count: 0\nAborted connections: 2\n", b"success: Created"]

    pulled(faults, "copyends/x", told, around)


def test_a_token_for_https_does_not_go_over_http(faults, told, around):
    source = Side("https://source.example.org/f", "read-token")

    with pytest.raises(TransferFailed, match="without encryption"):
        third_party.copy(order(source, faults.url("out")), told, around)

    assert faults.seen == []


@pytest.mark.parametrize("path", ["copyshort/x", "copycorrupt/x"])
def test_a_copy_that_is_not_what_it_should_be_is_removed(path, faults, told, around):
    what = order(faults.url("fine/in"), faults.url(path))

    with pytest.raises(Mismatch):
        copy(what, told, around)

    assert f"/{path}" not in faults.stored
    assert faults.asked("DELETE", f"/{path}")


def test_a_failed_copy_leaves_nothing(faults, told, around):
    with pytest.raises(FileMissing):
        copy(order(faults.url("fine/in"), faults.url("copyfails/x")), told, around)

    assert faults.stored == {}


def test_a_way_that_goes_over_another_protocol_is_none(tmp_path: Path, told, around):
    with pytest.raises(StageError, match="both sides"):
        copy(order("root://127.0.0.1//f", "https://localhost/f"), told, around)


def test_what_a_copy_has_brought_can_be_read_back(xrootd, around, told):
    """One server may copy to itself."""
    xrootd.put("tpc/self", BODY)

    third_party.copy(order(xrootd.https("tpc/self"), xrootd.https("tpc/twin")), told, around)

    with http.reading(Side(xrootd.https("tpc/twin")), around, told, compared=True) as source:
        assert b"".join(source.chunks) == BODY
