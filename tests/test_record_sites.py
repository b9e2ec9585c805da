"""The recorder serves programs of this machine and no web page, and what it writes is its user's alone."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import tracemalloc
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("openai")
from test_record import Recorder, play, two_reads, user
from upstream import said, upstream

from repo_agent.record.bodies import MAX_BODY, decoded

BODY = json.dumps({"model": "m", "messages": [user("hi")]}).encode()


def ask(recorder: Recorder, path: str, headers: list[tuple[str, str]], method: str = "POST") -> tuple[int, str]:
    """A request as it is given, Host and all; PORT in a header is the recorder's."""
    place = urlsplit(recorder.url)
    connection = http.client.HTTPConnection("127.0.0.1", place.port, timeout=20)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value.replace("PORT", str(place.port)))
    connection.putheader("Content-Length", str(len(BODY)))
    connection.endheaders(BODY)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


GOOD = [("Host", "127.0.0.1:PORT")]
STRANGERS = {
    "another name": [("Host", "evil.example")],
    "another name with the port": [("Host", "evil.example:PORT")],
    "a name that begins alike": [("Host", "127.0.0.1.evil.example:PORT")],
    "a name that ends alike": [("Host", "evil-localhost:PORT")],
    "a user in it": [("Host", "127.0.0.1@evil.example")],
    "an address that means here": [("Host", "0.0.0.0:PORT")],
    "no name": [],
    "two names": [("Host", "evil.example"), ("Host", "127.0.0.1:PORT")],
    "a page": [*GOOD, ("Origin", "http://evil.example")],
    "a page on this machine": [*GOOD, ("Origin", "http://127.0.0.1:3000")],
    "a page by another scheme": [*GOOD, ("Origin", "https://127.0.0.1:PORT")],
    "no page": [*GOOD, ("Origin", "null")],
    "two pages": [*GOOD, ("Origin", "http://127.0.0.1:PORT"), ("Origin", "http://evil.example")],
    "across sites": [*GOOD, ("Sec-Fetch-Site", "cross-site")],
    "on the same site": [*GOOD, ("Sec-Fetch-Site", "same-site")],
    "both": [("Host", "evil.example"), ("Origin", "http://evil.example"), ("Content-Type", "text/plain")],
}
PATHS = [
    "/v1/chat/completions",
    "/_repo_agent/mark",
    "/_repo_agent/conversations",
    "/v1/models",
    "/",
    "/x/../v1/embeddings?a=b",
]


def test_a_web_page_gets_nowhere(tmp_path: Path) -> None:
    with upstream(two_reads) as server, Recorder(tmp_path / "run", server.url) as recorder:
        for name, headers in STRANGERS.items():
            for path in PATHS:
                for method in ("GET", "POST", "OPTIONS"):
                    refused = (400, 403) if name in ("no name", "two names") else (403,)  # no HTTP at all
                    assert ask(recorder, path, headers, method)[0] in refused, (name, path)
        assert not server.seen
    assert recorder.result["rollouts"] == recorder.result["errors"] == 0


@pytest.mark.parametrize(
    "headers",
    [
        GOOD,
        [("Host", "localhost:PORT")],
        [("Host", "LOCALHOST")],
        [("Host", "[::1]:PORT")],
        [("Host", "127.0.0.1")],
        [*GOOD, ("Origin", "http://127.0.0.1:PORT"), ("Sec-Fetch-Site", "same-origin")],
        [*GOOD, ("Sec-Fetch-Site", "none")],
    ],
)
def test_programs_of_this_machine_are_served(tmp_path: Path, headers: list[tuple[str, str]]) -> None:
    with upstream(lambda request: said("hello")) as server, Recorder(tmp_path / "run", server.url) as recorder:
        status, text = ask(recorder, "/v1/chat/completions", [*headers, ("Content-Type", "application/json")])
        assert (status, json.loads(text)["choices"][0]["message"]["content"]) == (200, "hello")


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here")
def test_curl_and_the_sdk_need_nothing(tmp_path: Path) -> None:
    with upstream(two_reads) as server, Recorder(tmp_path / "run", server.url) as recorder:
        play(recorder.client(), "go")
        for url in (recorder.url, recorder.url.replace("127.0.0.1", "localhost")):
            words = ["curl", "-s", "-4", "-d", BODY.decode(), f"{url}/chat/completions"]
            assert b"choices" in subprocess.run(words, capture_output=True, check=True).stdout


def test_what_is_written_is_the_users_alone(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "mine"
    before = os.umask(0o022)
    try:
        with upstream(two_reads) as server:
            for goal in ("first", "second"):  # the second time into a folder that others may read
                with Recorder(out, server.url) as recorder:
                    play(recorder.client(), goal)
                modes = {path.relative_to(out): path.stat().st_mode & 0o777 for path in [out, *out.rglob("*")]}
                assert modes[Path()] == 0o700
                if goal == "first":
                    assert set(modes.values()) == {0o700, 0o600}
                out.chmod(0o755)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_header_that_is_for_one_connection_goes_no_further(tmp_path: Path) -> None:
    with upstream(lambda request: said("hello")) as server, Recorder(tmp_path / "run", server.url) as recorder:
        more = [
            ("Connection", "close, X-Mine"),
            ("X-Mine", "1"),
            ("X-Other", "2"),
            ("Content-Type", "application/json"),
        ]
        assert ask(recorder, "/v1/chat/completions", [*GOOD, *more])[0] == 200
        headers: dict[str, Any] = server.seen[0][2]
        assert "X-Mine" not in headers and headers["X-Other"] == "2"


def test_a_small_reply_does_not_unpack_to_all_memory() -> None:
    assert decoded(zlib.compress(b"x" * 1000), "deflate") == b"x" * 1000
    small = zlib.compress(b"\0" * (4 * MAX_BODY))
    tracemalloc.start()
    with pytest.raises(ValueError, match="over 64 MiB"):
        decoded(small, "gzip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * MAX_BODY
