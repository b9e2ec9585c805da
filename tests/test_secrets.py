"""What looks like a credential or a home folder: every shape found, every look-alike left alone, in linear time."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_agent.secrets import DASHED, PLAIN, UNDERSCORED, Finding, findings, home_folders

SHAPES = (Path(__file__).parent / "fixtures" / "secret_shapes.txt").read_text()


def shapes(seed: int) -> dict[str, dict[str, str]]:
    """KEYS and HARM, made with another seed."""
    made: dict[str, Any] = {"__name__": "shapes"}
    exec(SHAPES.replace("random.Random(1)", f"random.Random({seed})"), made)
    return made


def shown(text: str) -> list[tuple[str, str]]:
    return [(one.kind, text[one.start : one.end]) for one in findings(text)]


@pytest.mark.parametrize("seed", range(1, 21))
def test_every_shape_is_found_and_every_look_alike_left_alone(seed: int) -> None:
    made = shapes(seed)
    assert [name for name, text in made["KEYS"].items() if not findings(text)] == []
    assert {name: shown(text) for name, text in made["HARM"].items() if findings(text)} == {}


KEYS = shapes(1)["KEYS"]


@pytest.mark.parametrize("name", KEYS)
def test_a_shape_is_found_wherever_it_is(name: str) -> None:
    key = KEYS[name]
    for before, after in (
        ("", ""),
        ("x = '", "'\n"),
        ("see\n", "\nand"),
        ('{"a": "', '"}'),
        ("é漢 ", " é"),
        ("```\n", "\n```"),
    ):
        text = f"{before}{key}{after}"
        found = findings(text)
        assert found and all(len(before) <= one.start < one.end <= len(before) + len(key) for one in found)
    assert len(findings(f"{key} " * 5)) >= 5


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("DB_PASSWORD=aK3mX9qLw7Rt2v", "named", "aK3mX9qLw7Rt2v"),
        ("db_password: 'aK3mX9qLw7Rt2v'", "named", "aK3mX9qLw7Rt2v"),
        ('{"api_key": "3f9a8b7c6d5e4f3a2b1c"}', "named", "3f9a8b7c6d5e4f3a2b1c"),
        ("api-key: 3f9a8b7c6d5e4f3a2b1c", "named", "3f9a8b7c6d5e4f3a2b1c"),
        ('client_secret = "aK3mX9qLw7Rt2v"', "named", "aK3mX9qLw7Rt2v"),
        ("Authorization: Bearer aK3mX9qLw7Rt2vB8", "bearer", "aK3mX9qLw7Rt2vB8"),
        ("authorization: basic ZGVwbG95OnMzY3JldA==", "basic", "ZGVwbG95OnMzY3JldA=="),
        ("postgres://app:s3cr3tPass@db:5432/x", "password in a URL", "s3cr3tPass"),
        ("redis://:s3cr3tPass@cache", "password in a URL", "s3cr3tPass"),
        ("machine a.b\n  login me\n  password s3cr3tPass\n", "netrc", "s3cr3tPass"),
        ("İ token: aK3mX9qLw7Rt2v", "named", "aK3mX9qLw7Rt2v"),  # a letter whose small form is two
    ],
)
def test_a_credential_with_a_name_beside_it(text: str, kind: str, value: str) -> None:
    assert shown(text) == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "password=changeme", "password = 'password'", "PASSWORD=", "PASSWORD=${VAR}", "PASSWORD=$VAR1",
        "TOKEN={{ token1 }}", "api_key: <your key>", "api_key = 'YOUR_API_KEY_1'", "API_KEY=xxxxxxxxxxxxxxxx1",
        "api_key=sk-...", "token: %TOKEN1%", "Authorization: Bearer $TOKEN", "Authorization: Bearer <token>",
        "Authorization: Bearer YOUR_TOKEN_HERE", "https://user:password@host", "https://user:${PASS1}@host",
        "postgres://postgres:postgres@localhost:5432", "https://host:8080/a@b", "http://[::1]:80/",
        "AKIAIOSFODNN7EXAMPLE", "ghp_" + "x" * 36, "sk-" + "0" * 40, "token = tokenizer.decode(x1)",
        "secret_key = os.environ['K1']", "max_tokens=4096", "eos_token: str = '<|im_end|>'",
        "password: Annotated[str, x]", "token = self.tokens[i1]", "secret: SomeClassName = x", "token=get_token2(x)",
        "token = base64.b64decode(x)", "password_hash=5f4dcc3b5aa765d61d8327deb882cf99", "next_token = token_1",
        "cache_key: 5f4dcc3b5aa765d61d8327deb882cf99", "key=5f4dcc3b5aa765d61d8327deb882cf99",
        'text.startswith("-----BEGIN PRIVATE KEY-----")', "login me password me", "the bearer of bad news",
        "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOC\n", "import secrets, token", "hf_hub_url",
        "-----BEGIN RSA PRIVATE KEY-----\n...\n-----END RSA PRIVATE KEY-----",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08", "sk-learn", "task-1234567890ab",
        "https://hooks.slack.com/services/T00000000/B00000000/" + "X" * 24, "DISK" + "a1" * 16,
    ],
)  # fmt: skip
def test_placeholders_and_programs_are_left_alone(text: str) -> None:
    assert shown(text) == []


def test_a_private_key_is_one_finding() -> None:
    body = "\n".join(["MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7" * 1] * 20)
    whole = f"-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----"
    assert shown(f"a\n{whole}\nb") == [("private key", whole)]
    assert shown(f"a\n{whole}\n{whole}") == [("private key", whole)] * 2
    cut = whole[:400]
    assert shown(f"{cut}") == [("private key", cut)]
    escaped = whole.replace("\n", "\\n")
    assert shown(f'{{"k": "{escaped}"}}') == [("private key", escaped)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x /home/bob/y", ["/home/bob"]),
        ("/Users/jane/x:/home/bob", ["/Users/jane", "/home/bob"]),
        (r"C:\Users\bob\x", [r"C:\Users\bob"]),
        (r"C:\\Users\\bob\\x", [r"C:\\Users\\bob"]),
        ("d:/Users/bob/x", ["/Users/bob"]),
        (r"a\n/home/eve/x\t/home/eve", ["/home/eve", "/home/eve"]),
        ("file:///home/al/x", ["/home/al"]),
        ('File "/home/al/a.py", line 1', ["/home/al"]),
        ("https://a.b/home/bob", []),
        ("http://home/bob", []),
        ("src/home/index.js ~/home/x ./home/x", []),
        ("/home/$USER /home/<you> /home/{name} /home/", []),
        (r"/Users/Shared/x C:\Users\Public", []),
    ],
)
def test_home_folders(text: str, found: list[str]) -> None:
    assert [text[one.start : one.end] for one in home_folders(text)] == found


pieces = st.lists(
    st.sampled_from([*KEYS.values(), *shapes(1)["HARM"].values(), "password=", "://a:", "@", " ", "\n", "é"])
    | st.text()
)


@settings(max_examples=100)
@given(pieces)
def test_findings_are_in_order_and_apart(parts: list[str]) -> None:
    text = "".join(parts)
    for found in (findings(text), home_folders(text)):
        assert all(isinstance(one, Finding) and 0 <= one.start < one.end <= len(text) for one in found)
        assert all(one.end <= other.start for one, other in itertools.pairwise(found))
    assert findings(text) == findings(text)


STEMS = [
    stem + mark for table, mark in ((UNDERSCORED, "_"), (DASHED, "-")) for stems, _ in table.values() for stem in stems
]
MANY = [
    *STEMS, *(stem + "a1B" for stem in STEMS), *(stem + "a" * 11 for stem in STEMS),
    *(literal for literals, _ in PLAIN.values() for literal in literals),
    *(literal + "a1" * 6 for literals, _ in PLAIN.values() for literal in literals),
    *KEYS.values(), *(key[:-1] for key in KEYS.values()), *shapes(1)["HARM"].values(),
]  # fmt: skip
FEW = [
    "-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\n", "-----END PRIVATE KEY-----", "-----BEGIN ", "-",
    "--a", "_", "_a", "a", "1", " ", "\n", "\\n", "eyJ", "eyJaaaaaaaaaa.", "://", "://a:", "://a:b", "a:b@", "password",
    "password=", "password = ", "PASSWORD=a1", "token:", 'secret"', "_key", "api_key=a", "login ", "login a password ",
    "login\n\n", "earer ", "earer   ", "uthorization ", "uthorization: Basic ", "/home/", "/home/a", "Users\\",
    "C:\\Users\\", "\\n/home/", "İ", "token=a" + "_-" * 120 + "# ",
    "token=a" + "_a" * 120 + "#1 ", "PASSWORD=" + "aA" * 120,
]  # fmt: skip


def seconds(text: str) -> float:
    best = 1e9
    for _ in range(2):
        started = time.process_time()
        findings(text)
        home_folders(text)
        best = min(best, time.process_time() - started)
    return best


@pytest.mark.timeout(300)
@pytest.mark.parametrize("units", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
def test_ten_times_the_text_costs_at_most_fifteen_times_as_much(units: list[str]) -> None:
    for unit in units:
        short, long = (unit * (size // len(unit)) for size in (5_000, 50_000))
        assert seconds(long) <= 15 * seconds(short) + 0.03, unit


def test_a_clean_text_is_looked_through_by_none_of_the_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the search for literals: what a clean text costs."""
    from repo_agent import secrets

    def never(pattern: str) -> None:
        raise AssertionError(pattern)

    monkeypatch.setattr(secrets, "_compiled", never)
    assert findings((Path(secrets.__file__).parent / "cli/view.py").read_text() + "The quick brown fox. " * 100) == []
    with pytest.raises(AssertionError):
        findings(KEYS["ghp"])
