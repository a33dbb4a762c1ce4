"""A bucket whose server or network fails: what may pass is tried again, the rest is told at once."""

import time
from collections.abc import Iterator
from pathlib import Path

import proxy
import pytest
from moto_bucket import served

from simgap import faults
from simgap.errors import Missing, SimgapError, StoreFailed
from simgap.store import Store

LARGE = bytes(range(256)) * 70_000  # more than two blocks


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with served("faulty") as url:
        yield url


def store_at(url: str, monkeypatch: pytest.MonkeyPatch, name: str) -> Store:
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    return Store(f"s3://faulty/{name}")  # a name of its own, since connections are kept by URL


@pytest.mark.parametrize("fault", proxy.FAULTS)
def test_what_fails_now_and_then_is_done_all_the_same(
    server: str, fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(LARGE)
    with proxy.before(server, 0.3, seed=3, faults=(fault,)) as (url, faulty):
        store = store_at(url, monkeypatch, fault)
        for n in range(3):
            store.put(f"x/{n}", b"%d" % n)
            assert store.create(f"once/{n}", b"first"), "its own answer was lost"
            assert not store.create(f"once/{n}", b"second")
        assert list(store.get_all(f"x/{n}" for n in range(3))) == [b"0", b"1", b"2"]
        assert [entry.path for entry in store.list("x")] == [f"x/{n}" for n in range(3)]
        assert store.head("x/1").size == 1 and not store.exists("x/9")
        store.upload("large", tmp_path / "large")
        store.download("large", tmp_path / "again")
        with store.reader("large") as file:
            assert file.read() == (tmp_path / "again").read_bytes() == LARGE
    assert faulty.met[fault] > 2


def test_a_server_that_is_away_is_a_passing_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simgap.store.TRIES", 2)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    store = store_at("http://127.0.0.1:1", monkeypatch, "away")
    with pytest.raises(
        StoreFailed, match=r"^s3://faulty/away/x: the server cannot be reached; is AWS_ENDPOINT_URL right"
    ):
        store.get("x")


@pytest.mark.parametrize(
    "ask", [lambda s: s.get("x"), lambda s: s.exists("x"), lambda s: s.list(""), lambda s: s.put("x", b"")]
)
def test_a_missing_bucket_is_not_taken_for_a_missing_object(server: str, ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    started = time.monotonic()
    with pytest.raises(
        SimgapError, match=r"there is no such bucket; correct the URL, or let `simgap store init`"
    ) as told:
        ask(Store("s3://nowhere/at-all"))
    assert type(told.value) is SimgapError and time.monotonic() - started < 1


def test_without_credentials_it_is_said_at_once(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(SimgapError, match=r"^s3://faulty/none: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET"):
        store_at(server, monkeypatch, "none")


ANSWER = "Generic S3 error: Error performing GET http://x/y in 2ms - Server returned non-2xx status code: {}: <?xml?>\n<Error>{}</Error>"


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        ("403 Forbidden", "<Code>SignatureDoesNotMatch</Code>", SimgapError, "AWS_SECRET_ACCESS_KEY does not belong to"),
        ("403 Forbidden", "<Code>InvalidAccessKeyId</Code>", SimgapError, "AWS_ACCESS_KEY_ID is not known there"),
        ("403 Forbidden", "<Code>AccessDenied</Code>", SimgapError, "may not do this"),
        ("403 Forbidden", "", SimgapError, r"set AWS_ACCESS_KEY_ID and .* of a user who may \(403\)"),
        ("400 Bad Request", "<Code>AuthorizationHeaderMalformed</Code>", SimgapError, "AWS_REGION is not the bucket's region"),
        ("404 Not Found", "<Code>NoSuchKey</Code>", Missing, "no such object"),
        ("404 Not Found", "<Code>NoSuchUpload</Code>", StoreFailed, r"this time \(NoSuchUpload\)"),
        ("503 Service Unavailable", "<Code>SlowDown</Code>", StoreFailed, r"this time \(SlowDown\)"),
        ("507 Insufficient Storage", "", StoreFailed, r"this time \(507\)"),
    ],
)  # fmt: skip
def test_each_refusal_says_what_to_set_or_may_pass(status: str, code: str, kind: type, words: str) -> None:
    told = faults.told("s3://b/x", Exception(ANSWER.format(status, code + "<AWSAccessKeyId>AKIA</AWSAccessKeyId>")))
    assert type(told) is kind and "AKIA" not in str(told) and len(str(told).splitlines()) == 1
    with pytest.raises(kind, match=rf"^s3://b/x: .*{words}"):
        raise told
