"""Tokens at a server that demands them: root:// and https, by the wallet that jobs have."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pilot.staging.lanes.lanes import Lanes
from pilot.staging.lanes.wallet import Rule, Wallet
from pilot.staging.transfer import Hop, Route, Transfer
from pilot.values.deadline import Deadline
from pilot.values.errors import Denied, StageError
from pilot.values.names import Url
from tests.lab import until
from tests.storage.tokens import Issuer

CONTENT = random.Random(9).randbytes(300_000)
SCHEMES = ("roots", "https", "davs")


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """Where the site keeps its token; others may read it, as Kubernetes has it."""
    file = tmp_path / "secret" / "token"
    file.parent.mkdir(mode=0o700)
    return file


@pytest.fixture
def renew(token_file: Path) -> Callable[[str], None]:
    """Replace the token as a sidecar or Kubernetes does: all at once."""

    def put(token: str) -> None:
        fresh = token_file.with_suffix(".new")
        fresh.write_text(token + "\n")
        fresh.chmod(0o644)
        fresh.rename(token_file)

    return put


@pytest.fixture
def with_token(open_lanes: Callable[..., Lanes], token_file: Path, tmp_path: Path) -> Lanes:
    wallet = Wallet([Rule("*", "token", str(token_file))], tmp_path / "copies", trusting=True)
    return open_lanes(wallet=wallet)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_token_opens_the_storage_and_without_one_it_is_closed(
    scheme, guarded, issuer, renew, with_token, lanes, stop, download, upload
):
    renew(issuer.token())
    guarded.put(f"priv/{scheme}", CONTENT)
    url = getattr(guarded, scheme)

    moved = with_token.move(download(url(f"priv/{scheme}"), CONTENT), Deadline.after(60), stop)
    assert moved.size == len(CONTENT)
    with_token.move(upload(url(f"priv/up-{scheme}"), CONTENT), Deadline.after(60), stop)
    assert (guarded.data / f"priv/up-{scheme}").read_bytes() == CONTENT

    with pytest.raises(Denied):
        lanes.move(download(url(f"priv/{scheme}"), CONTENT, "work/other"), Deadline.after(60), stop)


@pytest.mark.parametrize("scheme", ["roots", "https"])
def test_a_token_that_expires_between_two_files_is_told_and_a_new_one_is_a_new_lane(
    scheme, guarded, issuer, renew, with_token, stop, download
):
    guarded.put(f"turn/{scheme}", CONTENT)
    url = getattr(guarded, scheme)(f"turn/{scheme}")
    renew(issuer.token(subject="first"))
    with_token.move(download(url, CONTENT, "work/1"), Deadline.after(60), stop)
    first = with_token.pids()

    renew(issuer.token(lifetime_s=-60))
    with pytest.raises(Denied, match="has expired") as caught:
        with_token.move(download(url, CONTENT, "work/2"), Deadline.after(60), stop)
    assert caught.value.code == 1338

    renew(issuer.token(subject="second"))
    with_token.move(download(url, CONTENT, "work/3"), Deadline.after(60), stop)
    assert with_token.pids() - first


@pytest.mark.parametrize("scheme", ["roots", "https"])
def test_a_token_that_may_only_read_is_denied_the_rest_and_leaves_nothing(
    scheme, guarded, issuer, renew, with_token, stop, upload
):
    renew(issuer.token("storage.read:/"))

    with pytest.raises(StageError) as caught:
        with_token.move(upload(getattr(guarded, scheme)(f"readonly/{scheme}"), CONTENT), Deadline.after(60), stop)

    assert caught.value.code == 1383
    assert not (guarded.data / f"readonly/{scheme}").exists()


@pytest.mark.parametrize("refusal", ["expired", "refused"])
def test_a_renewed_token_ends_the_pause_of_a_file_that_was_refused_for_its_token(
    refusal, secure_faults, faults, renew, open_lanes, token_file, tmp_path, stop
):
    wallet = Wallet([Rule("localhost", "token", str(token_file))], tmp_path / "copies")
    lanes = open_lanes(wallet=wallet, patience_s=60)
    renew(Issuer().token(lifetime_s=-60 if refusal == "expired" else 3600))
    secure_faults.refused = refusal == "refused"
    (tmp_path / "out").write_bytes(CONTENT)
    source, guarded = Url(f"file://{tmp_path}/out"), Url(secure_faults.url("guarded/x", "localhost"))
    ways = [Route((Hop(source, target),)) for target in (guarded, Url(faults.url("later/300/x")))]

    def renewed() -> None:
        """Once there is nothing to do but to wait for five minutes."""
        until(lambda: "/later/300/x" in faults.requests)
        secure_faults.refused = False
        renew(Issuer().token())

    other = threading.Thread(target=renewed, daemon=True)
    other.start()
    began = time.monotonic()
    moved = lanes.move(Transfer("out", "out", tuple(ways)), Deadline.after(20), stop)
    other.join()

    assert moved.route is ways[0]
    assert time.monotonic() - began < 20


def test_a_storage_that_refuses_a_fresh_token_is_asked_once_more(secure_faults, renew, with_token, stop, download):
    renew(Issuer().token())

    with pytest.raises(Denied):
        with_token.move(download(secure_faults.url("code/403/x", "localhost")), Deadline.after(60), stop)

    assert secure_faults.requests == ["/code/403/x"] * 2
