"""Limits of a key: requests and tokens a minute, answers at once; and keys from a file."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from edge.harness import MODEL, Hang, Rig, Until, bearer, chat, native, wait_until
from narrows.cli.key import app
from narrows.coding.events import Coding, Opened
from narrows.edge.api.rates import Bucket, RateBook
from narrows.edge.books.keys import KeyLimits, create_key, find_key, list_keys, revoke_key
from narrows.edge.books.keys_file import load_keys_file, sync_keys
from narrows.edge.books.store import open_database
from narrows.edge.problems import ApiError
from narrows.errors import InputError

MESSAGES: Any = [{"role": "user", "content": "x"}]


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def made(state: Path, name: str, **limits: int) -> str:
    database = open_database(state)
    _, text = create_key(database, name, 1, limits=KeyLimits(**limits))
    database.close()
    return text


def test_requests_a_minute() -> None:
    clock = Clock()
    book, limits = RateBook(clock), KeyLimits(rpm=3)
    headers: dict[str, str] = {}
    for left in (2, 1, 0):
        book.enter(1, limits, headers)
        assert headers["x-ratelimit-remaining-requests"] == str(left)
    assert headers["x-ratelimit-limit-requests"] == "3"
    assert headers["x-ratelimit-reset-requests"] == "1m0s"
    for _ in range(5):  # what is refused is not counted
        with pytest.raises(ApiError) as caught:
            book.enter(1, limits, headers)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 20)
    assert caught.value.headers()["x-should-retry"] == "true"
    book.enter(2, limits, {})
    clock.now_s += 20
    book.enter(1, limits, headers)
    with pytest.raises(ApiError):
        book.enter(1, limits, headers)
    clock.now_s += 3600  # no more than a minute's worth is saved up
    for _ in range(3):
        book.enter(1, limits, headers)
    with pytest.raises(ApiError):
        book.enter(1, limits, headers)
    book.enter(1, KeyLimits(), headers)
    book.enter(1, KeyLimits(rpm=100), headers)


def test_tokens_a_minute_are_paid_behind() -> None:
    clock = Clock()
    book, limits = RateBook(clock), KeyLimits(tpm=60)
    headers: dict[str, str] = {}
    book.enter(1, limits, headers)
    with book.answering(1, 1, 10, lambda: 100):
        book.enter(1, limits, headers)
        assert headers["x-ratelimit-remaining-tokens"] == "50"
    with pytest.raises(ApiError, match="60 tokens a minute") as caught:
        book.enter(1, limits, headers)
    assert caught.value.retry_after_s == 41
    assert headers["x-ratelimit-remaining-tokens"] == "0"
    clock.now_s += 41
    book.enter(1, limits, headers)
    with book.answering(1, 1, 10, lambda: 10**9):
        pass
    clock.now_s += 3601 + 60  # an hour of debt, and no more
    book.enter(1, limits, headers)
    with book.answering(1, 1, 50, lambda: 0):  # nothing came of it
        pass
    book.enter(1, limits, headers)
    assert headers["x-ratelimit-remaining-tokens"] == "60"


def test_answers_at_once() -> None:
    book, limits = RateBook(Clock()), KeyLimits(concurrent=2)
    book.enter(1, limits, {})
    with book.answering(1, 2, 0, lambda: 0):
        for answers, status in ((1, 429), (3, 400)):
            with pytest.raises(ApiError) as caught, book.answering(1, answers, 0, lambda: 0):
                pass
            assert caught.value.status == status
        with book.answering(2, 9, 0, lambda: 0):
            pass
    with pytest.raises(ZeroDivisionError), book.answering(1, 2, 0, lambda: 0):
        raise ZeroDivisionError
    with book.answering(1, 2, 0, lambda: 0):
        pass


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 500), st.integers(0, 5000)), max_size=40),
)
def test_a_bucket_gives_no_more_than_its_rate(
    per_minute: int, steps: list[tuple[float, int]]
) -> None:
    now_s = taken = last = 0.0
    bucket = Bucket(per_minute, now_s)
    for wait_s, count in steps:
        now_s += wait_s
        bucket.fill(now_s)
        assert bucket.level <= per_minute
        if bucket.level >= 1:
            before = bucket.level
            bucket.take(count)
            last = before - bucket.level
            assert last == pytest.approx(min(count, before + 60 * per_minute))
            taken += last
        # Only the last one may overdraw: all before it was there.
        assert taken - last <= per_minute * (1 + now_s / 60) + 1e-6


def test_limits_of_a_key_in_its_replies(tmp_path: Path) -> None:
    key, free = made(tmp_path, "a", rpm=3, tpm=100_000), made(tmp_path, "free")
    with Rig(tmp_path) as rig:
        rig.enclave.script = lambda request: native("hello")
        with rig.client(api_key=key) as client:
            raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=MESSAGES)
            assert raw.headers["x-ratelimit-limit-requests"] == "3"
            assert raw.headers["x-ratelimit-remaining-requests"] == "2"
            assert raw.headers["x-ratelimit-limit-tokens"] == "100000"
        streamed = rig.post(chat(stream=True), headers=bearer(key))
        assert streamed.headers["x-ratelimit-remaining-requests"] == "1"
        assert rig.post(b"{", headers=bearer(key)).status_code == 400  # counts too
        with rig.client(api_key=key) as client, pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert caught.value.code == "rate_limit_exceeded"
        refused = caught.value.response.headers
        assert 1 <= int(refused["retry-after"]) <= 20
        assert refused["x-ratelimit-remaining-requests"] == "0"
        assert refused["x-should-retry"] == "true"
        with (
            anthropic.Anthropic(base_url=rig.url, api_key=key, max_retries=0) as other,
            pytest.raises(anthropic.RateLimitError) as told,
        ):
            other.messages.create(model=MODEL, max_tokens=5, messages=MESSAGES)
        body: Any = told.value.body
        assert (body["type"], body["error"]["type"]) == ("error", "rate_limit_error")
        count = {"model": MODEL, "messages": MESSAGES}
        place = "/v1/messages/count_tokens"
        assert rig.post(count, place, headers=bearer(key)).status_code == 429
        assert rig.get("/v1/models", headers=bearer(key)).status_code == 200
        answer = rig.post(chat(), headers=bearer(free))
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


def test_tokens_that_were_cut_off_are_charged(tmp_path: Path) -> None:
    key = made(tmp_path, "a", tpm=50)
    with Rig(tmp_path) as rig:
        rig.enclave.script = lambda request: [*native("x" * 400)[:-1], Hang()]
        with rig.client(api_key=key) as client:
            stream = client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
            next(stream)
            stream.close()
        wait_until(lambda: rig.post(chat(), headers=bearer(key)).status_code == 429)


def test_answers_at_once_over_the_api(tmp_path: Path) -> None:
    key = made(tmp_path, "a", concurrent=1)
    open_ = {"over": False}
    with Rig(tmp_path) as rig, ThreadPoolExecutor() as pool:
        until = Until(lambda: open_["over"])
        rig.enclave.script = lambda request: [Opened(Coding.PLAIN), until, *native("x")[1:]]
        first = pool.submit(rig.post, chat(), headers=bearer(key))
        wait_until(lambda: rig.enclave.requests)
        second = rig.post(chat(stream=True), headers=bearer(key))
        assert second.status_code == 429
        assert second.headers["retry-after"] == "1"
        assert rig.post(chat(n=2), headers=bearer(key)).status_code == 400
        open_["over"] = True
        assert first.result().status_code == 200
        wait_until(lambda: rig.post(chat(), headers=bearer(key)).status_code == 200)


def run(state: Path, *arguments: str) -> Any:
    command = [*arguments, "--state", str(state)]
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, command)


def test_commands_set_limits_and_show_them(tmp_path: Path) -> None:
    key = json.loads(run(tmp_path, "new", "a", "--rpm", "60", "--tpm", "9000", "--json").stdout)
    assert "60 rpm, 9,000 tpm" in " ".join(run(tmp_path, "list").stdout.split())
    changed = run(tmp_path, "limit", "a", "--rpm", "none", "--concurrent", "4", "--share", "1MB")
    assert changed.exit_code == 0, changed.exception
    changed = run(tmp_path, "limit", "a", "--month-share", "20MB")
    assert "20,000,000 bytes a month" in changed.stdout
    assert changed.exit_code == 0, changed.exception
    (listed,) = json.loads(run(tmp_path, "list", "--json").stdout)["keys"]
    assert listed["limits"] == {
        "rpm": None,
        "tpm": 9000,
        "concurrent": 4,
        "share_bytes_per_month": 20_000_000,
    }
    assert (listed["share_bytes_per_day"], listed["from_file"]) == (1_000_000, False)
    database = open_database(tmp_path)
    found = find_key(database, key["key"])
    assert found == (1, 1_000_000, KeyLimits(None, 9000, 4, 20_000_000))
    database.close()
    for wrong in (
        ["limit", "a"],
        ["limit", "b", "--rpm", "1"],
        ["limit", "a", "--rpm", "0"],
        ["limit", "a", "--rpm", "-1"],
        ["limit", "a", "--tpm", "many"],
        ["new", "c", "--concurrent", "0"],
        ["new", "c", "--tpm", "9999999999999"],
    ):
        assert isinstance(run(tmp_path, *wrong).exception, InputError), wrong
    assert len(json.loads(run(tmp_path, "list", "--json").stdout)["keys"]) == 1


SECRET = "sk-" + "a1" * 20
OTHER = "nk-" + "b" * 43
DIGEST = "sha256:" + hashlib.sha256(OTHER.encode()).hexdigest()


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.touch(0o600)
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_file_of_keys(tmp_path: Path) -> None:
    path = write(
        tmp_path / "keys",
        f"# who\n\nalice {SECRET} rpm=60 share=500 month-share=900\nbatch {DIGEST}  # night\n",
    )
    assert sync_keys(tmp_path, path, 5).startswith("2 keys in keys, 2 new")
    database = open_database(tmp_path)
    assert find_key(database, SECRET) == (1, 500, KeyLimits(rpm=60, share_bytes_per_month=900))
    assert find_key(database, OTHER) == (2, None, KeyLimits())
    assert SECRET[-6:] not in run(tmp_path, "list").stdout
    assert "active (file)" in run(tmp_path, "list").stdout
    assert "one of a file" in str(run(tmp_path, "limit", "alice", "--rpm", "1").exception)

    write(path, f"batch {DIGEST} concurrent=2\n", 0o644)  # digests may be read
    assert sync_keys(tmp_path, path, 6) == "1 keys in keys, 0 new, 1 withdrawn"
    assert find_key(database, SECRET) is None
    assert find_key(database, OTHER) == (2, None, KeyLimits(concurrent=2))
    write(path, f"alice2 {SECRET}\nbatch {DIGEST}\n")
    sync_keys(tmp_path, path, 7)
    assert find_key(database, SECRET) == (1, None, KeyLimits()), "the same number again"

    revoke_key(database, 1, 8)
    assert sync_keys(tmp_path, path, 9).endswith("1 refused, since they are revoked")
    assert find_key(database, SECRET) is None
    write(path, "")
    sync_keys(tmp_path, path, 10)
    write(path, f"alice {SECRET}\nbatch {DIGEST}\n")
    sync_keys(tmp_path, path, 11)
    assert find_key(database, SECRET) is None, "revoked by a person, for good"
    assert find_key(database, OTHER) is not None

    _, own = create_key(database, "own", 12)
    write(path, f"a {own}\n")
    with pytest.raises(InputError, match="lines 1"):
        sync_keys(tmp_path, path, 13)
    assert find_key(database, OTHER) is not None
    assert [key.from_file for key in list_keys(database, "")] == [True, True, False]
    database.close()


@pytest.mark.parametrize(
    "line",
    [
        "alice",
        "alice short",
        "alice " + "x" * 513,
        "alice sha256:abc",
        "alice " + DIGEST.upper(),
        f"alice {SECRET} rpm=0",
        f"alice {SECRET} rpm=-1",
        f"alice {SECRET} rpm=1 rpm=2",
        f"alice {SECRET} rpm",
        f"alice {SECRET} speed=1",
        f"alice {SECRET} rpm=9999999999",
        f"alice {SECRET} month-share=0",
        f"alice {SECRET} rpm=" + "9" * 5000,
        "x" * 101 + f" {SECRET}",
        f"a\x1b[31m {SECRET}",
        "alice " + "é" * 40,
        f"a {SECRET}\nb {SECRET}",
    ],
)
def test_lines_that_are_wrong(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "keys", f"good {DIGEST}\n{line}\n")
    with pytest.raises(InputError) as caught:
        sync_keys(tmp_path, path, 1)
    said = str(caught.value) + str(caught.value.problems)
    assert "keys:" in said
    assert SECRET not in said
    assert not (tmp_path / "edge").exists() or not _numbers(tmp_path)


def _numbers(state: Path) -> list[int]:
    database = open_database(state)
    try:
        return [key.key_id for key in list_keys(database, "")]
    finally:
        database.close()


def test_files_that_are_not_taken(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", f"alice {SECRET}\n", 0o640)
    with pytest.raises(InputError, match="chmod 600"):
        load_keys_file(path)
    path.chmod(0o600)
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="UTF-8"):
        load_keys_file(path)
    path.write_bytes(b"#" * ((1 << 22) + 1))
    with pytest.raises(InputError, match="larger"):
        load_keys_file(path)
    for missing in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputError, match="cannot read"):
            load_keys_file(missing)
    write(path, "".join(f"a sha256:{number:064x}\n" for number in range(10_001)))
    with pytest.raises(InputError) as caught:
        load_keys_file(path)
    assert "10,001 keys" in caught.value.problems[0]


@pytest.fixture
def reread() -> Iterator[list[Any]]:
    """SIGHUP as the rig's loop would get it, were it the main thread's."""
    import asyncio

    handlers: list[Any] = []
    kept = asyncio.SelectorEventLoop.add_signal_handler

    def add(self: Any, number: int, handler: Any) -> None:
        if number == signal.SIGHUP:
            handlers.append(lambda: self.call_soon_threadsafe(handler))

    asyncio.SelectorEventLoop.add_signal_handler = add  # type: ignore[method-assign]
    yield handlers
    asyncio.SelectorEventLoop.add_signal_handler = kept  # type: ignore[method-assign]


def test_an_edge_reads_its_file_again(
    tmp_path: Path, reread: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "keys", "")
    with Rig(tmp_path, keys_file=path) as rig:
        rig.enclave.script = lambda request: native("hello")
        assert rig.post(chat()).status_code == 401, "an empty file lets nobody in"
        write(path, f"alice {SECRET} rpm=100\n")
        (again,) = reread
        again()
        wait_until(lambda: rig.post(chat(), headers=bearer(SECRET)).status_code == 200)
        write(path, "alice\n")
        again()
        wait_until(lambda: any("keys:1:" in text for text in caplog.messages))
        answer = rig.post(chat(), headers=bearer(SECRET))
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "100"
        write(path, "")
        again()
        wait_until(lambda: rig.post(chat(), headers=bearer(SECRET)).status_code == 401)
    write(path, "alice\n")
    with pytest.raises(InputError, match="is wrong"), Rig(tmp_path, keys_file=path):
        pass
