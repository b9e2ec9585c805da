"""What looks like a credential or a home folder in a text: `findings` and `home_folders`. It names places, not values.

One line a provider, by the shape that the provider documents; beside them places where a credential is named as one:
`PASSWORD=…`, `Authorization: Bearer …`, `scheme://user:password@host`, .netrc, PEM blocks. Placeholders (`changeme`,
`${VAR}`, `<your key>`) are left alone. Time is linear in the text; a text without any of the literals below costs
little more than the search for them.

Not found: a bare run of hexadecimal digits or of base64 without a name beside it, which cannot be told from a hash; a
credential of a provider that is not in the table, without a name; one that is encoded (base64, percent) or cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One place: `text[start:end]`."""

    start: int
    end: int
    kind: str


_BREAK = r"(?:\\r)?(?:\\n|\r?\n)"
"""A line break inside of a credential that was wrapped, real or as JSON writes it."""


def _exactly(characters: str, count: int) -> str:
    """So many characters, perhaps wrapped."""
    return rf"(?:{characters}(?:{_BREAK})?){{{count - 1}}}{characters}"


_A, _H, _W = "[A-Za-z0-9]", "[0-9a-f]", r"[\w-]"
_END = "(?![A-Za-z0-9])"
Shapes = dict[str, tuple[tuple[str, ...], str]]
"""Kind → texts of which a credential of that kind holds one, and its pattern."""
UNDERSCORED: Shapes = {
    "github": (("ghp", "gho", "ghu", "ghs", "ghr"), rf"gh[pousr]_{_exactly(_A, 36)}{_A}*+"),
    "github fine-grained": (("github_pat",), rf"github_pat_{_A}{{22}}_{_A}{{59}}"),
    "hugging face": (("hf",), rf"hf_{_exactly(_A, 34)}(?![A-Za-z0-9_])"),
    "stripe": (("k_live", "k_test"), rf"[sr]k_(?:live|test)_{_A}{{20,}}"),
    "stripe webhook": (("whsec",), r"whsec_[A-Za-z0-9+/]{32,}=*"),
    "npm": (("npm",), rf"npm_{_A}{{36}}{_END}"),
    "digitalocean": (("_v1",), rf"do[opr]_v1_{_H}{{64}}"),
    "linear": (("lin_api", "lin_oauth"), rf"lin_(?:api|oauth)_{_A}{{40,}}"),
    "notion": (("ntn",), rf"ntn_{_A}{{40,}}"),
    "shopify": (("shpat", "shpca", "shppa", "shpss"), r"shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    "groq": (("gsk",), rf"gsk_{_A}{{50,}}"),
    "replicate": (("r8",), rf"r8_{_A}{{37}}{_END}"),
    "fireworks": (("fw",), rf"fw_(?<![A-Za-z0-9]fw_){_A}{{24}}{_END}"),
    "grafana": (("glsa",), rf"glsa_{_A}{{32}}_{_H}{{8}}"),
    "sentry": (("sntryu",), rf"sntryu_{_H}{{64}}"),
    "rubygems": (("rubygems",), rf"rubygems_{_H}{{48}}"),
    "langsmith": (("lsv2_pt", "lsv2_sk"), rf"lsv2_(?:pt|sk)_{_H}{{32}}_{_H}{{10}}"),
    "supabase": (("sbp",), rf"sbp_{_H}{{40}}"),
}
"""What is before the underscore that a long run of letters and digits follows, and the whole."""
DASHED: Shapes = {
    "anthropic": (("sk",), rf"sk-ant-[a-z]{{2,8}}\d\d-{_W}{{20,}}"),
    "openrouter": (("sk",), rf"sk-or-v1-{_H}{{64}}"),
    "openai": (("sk",), rf"sk-(?:proj|svcacct|admin|None)-{_W}{{20,}}"),
    "sk- key": (("sk",), rf"sk-(?<![A-Za-z0-9]sk-){_A}{{12,}}+(?!{_W})"),
    "slack": (tuple(f"xox{one}" for one in "abeprs"), rf"xox[abeprs](?:\.xox[bp])?-\d{_W}{{20,}}"),
    "slack app": (("xapp",), rf"xapp-\d-[A-Z0-9]{{1,20}}-\d{{1,20}}-{_A}{{30,}}"),
    "google oauth": (("GOCSPX",), rf"GOCSPX-{_W}{{28}}"),
    "pypi": (("pypi",), rf"pypi-AgE{_W}{{50,}}"),
    "tailscale": (("tskey",), rf"tskey-[a-z]{{1,20}}-{_W}{{20,}}"),
    "xai": (("xai",), rf"xai-{_A}{{70,}}"),
    "nvidia": (("nvapi",), rf"nvapi-{_W}{{60,}}"),
    "perplexity": (("pplx",), rf"pplx-{_A}{{40,}}"),
    "age": (("AGE-SECRET-KEY",), r"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
    "gitlab": (("glpat", "gldt", "glrt", "glptt", "glcbt", "glft", "glsoat"), rf"gl[a-z]{{2,5}}-{_W}{{20,}}"),
    "new relic": (("NRAK",), r"NRAK-[A-Z0-9]{27}"),
    "postman": (("PMAK",), rf"PMAK-{_H}{{24}}-{_H}{{34}}"),
    "pulumi": (("pul",), rf"pul-{_H}{{40}}"),
    "cerebras": (("csk",), rf"csk-{_A}{{40,}}"),
    "tavily": (("tvly",), rf"tvly-(?:dev-)?{_A}{{24,}}"),
    "mailgun": (("key",), rf"key-(?<![A-Za-z0-9_-]key-){_H}{{32}}{_END}"),
    "square": (("sq0atp", "sq0csp"), rf"sq0(?:atp|csp)-{_W}{{22,}}"),
}
"""The same with a dash."""
PLAIN: Shapes = {
    "aws": (("AKIA", "ASIA"), r"A[KS]IA(?<![A-Z0-9]A.IA)[A-Z0-9]{16}(?![A-Z0-9])"),
    "google": (("AIza",), rf"AIza{_W}{{35}}(?!{_W})"),
    "google token": (("ya29.",), rf"ya29\.{_W}{{20,}}"),
    "sendgrid": (("SG.",), rf"SG\.{_W}{{22}}\.{_W}{{43}}"),
    "twilio": (("SK",), rf"SK(?<![A-Za-z0-9]SK){_H}{{32}}{_END}"),
    "databricks": (("dapi",), rf"dapi(?<![A-Za-z0-9]dapi){_H}{{32}}{_END}"),
    "vault": (("hvs.", "hvb."), rf"hv[sb]\.(?<![A-Za-z0-9]hv..){_W}{{24,}}"),
    "telegram": ((":AA",), rf":AA(?<=\d{{8}}:AA){_W}{{33}}(?!{_W})"),
    "together": (("tgp_v1_",), rf"tgp_v1_{_W}{{40,}}"),
    "docker": (("dckr_",), rf"dckr_[po]at_{_W}{{27,}}"),
    "json web token": (("eyJ",), rf"eyJ(?<!{_W}eyJ){_W}{{10,}}+\.eyJ{_W}{{5,}}+\.{_W}{{20,}}"),
    "slack webhook": (
        ("hooks.slack",),
        r"hooks\.slack\.com/(?:services|workflows|triggers)/[\w/]{1,64}/(?P<value>\w{16,})",
    ),
    "password in a URL": (("://",), r"""://[^\s/:@'"<>]{0,256}:(?P<value>[^\s/@'"<>{}$]{3,256})@"""),
    "bearer": (("earer ",), r"earer {1,3}(?P<value>[A-Za-z0-9._~+/=-]{16,})"),
    "basic": (("asic ",), r"uthorization\W{1,5}[Bb]asic {1,3}(?P<value>[A-Za-z0-9+/=]{12,})"),
    "netrc": (("login",), r"login\s{1,64}\S{1,256}\s{1,64}password\s{1,64}(?P<value>[^\s\"'<>]{6,256})"),
}
"""The rest. Where a pattern names a `value`, that alone is the finding, if it looks like no word."""
_LONG_AFTER = {
    "_": (re.compile(r"_(?=[A-Za-z0-9+/]{16})"), UNDERSCORED),
    "-": (re.compile(r"-(?<!--)(?=[\w-]{12})"), DASHED),
}
_LONGEST_STEM = 14
_WORDS = ("passw", "passphrase", "pwd", "secret", "token", "credential", "apikey", "_key", "-key")
_NAMED = re.compile(
    r"(?:passw(?:or)?d|passphrase|pwd|secret|token|credential|api_?key|[_-]key)(?:_?\d{1,3})?[\"'`]?"
    r"\s{0,3}[:=]>?\s{0,3}[\"'`]?(?P<value>[A-Za-z0-9+/_.~!@#%^&*=?-]{8,256}+)(?![(\[{$])",
    re.IGNORECASE,
)
_KEYS = ("api", "access", "secret", "private", "auth")
"""What a `_key` is of, where it is a credential."""
_VARIABLE = re.compile(r"[A-Z0-9_]{3,}=")
"""A variable of the environment, nothing between it and its value."""
_PEM = re.compile(r"-----(BEGIN|END) (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_BODY = re.compile(r"[A-Za-z0-9+/=]{20}")
_FAKE = "example|your|change|placeholder|redact|dummy|fake|sample|insert|xxxx"
_PLACEHOLDER = re.compile(rf"{_FAKE}|{_FAKE.upper()}|\A[%$]|\*{{3}}|\.{{3}}|(.)\1{{9}}")
_WORD = re.compile(r"[A-Za-z]+\d{0,4}(?:[_./-][A-Za-z]*\d{0,4})*[!?*=]*")
_CASES = re.compile(r"(?<=[a-z])[A-Z]|(?<=[A-Z])[a-z]")


def findings(text: str) -> list[Finding]:
    """What looks like a credential, in order and without overlaps."""
    found = [*_shaped(text), *_named(text), *_pem(text)]
    kept: list[Finding] = []
    for one in sorted(found, key=lambda one: (one.start, -one.end)):
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
    return kept


def home_folders(text: str) -> list[Finding]:
    """The folders of users, their name included: /home/NAME, /Users/NAME, C:\\Users\\NAME."""
    found = []
    for folder, pattern in _HOMES.items():
        for hit in pattern.finditer(text) if folder in text else ():
            if hit["name"].lower() not in _NOBODY:
                drive = 0 if folder[0] == "/" else hit.start() - text.rfind(":", 0, hit.start()) + 1
                found.append(Finding(hit.start() - drive, hit.end(), "home folder"))
    return sorted(found)


def _shaped(text: str) -> Iterator[Finding]:
    kinds = [one for one, (literals, _) in PLAIN.items() if any(literal in text for literal in literals)]
    shapes = [(kind, PLAIN[kind][1]) for kind in kinds]
    for pattern, table in _LONG_AFTER.values():
        shapes += _with_stem(text, pattern, table)
    for kind, shape in shapes:
        for hit in _compiled(shape).finditer(text):
            yield from _of(kind, hit)


def _with_stem(text: str, pattern: re.Pattern[str], table: Shapes) -> list[tuple[str, str]]:
    """The shapes of a table whose stem is somewhere before a long run."""
    stems = tuple(stem for of_kind, _ in table.values() for stem in of_kind)
    places = [hit.start() for hit in pattern.finditer(text)]
    places = [place for place in places if text.endswith(stems, max(0, place - _LONGEST_STEM), place)]
    return [
        (kind, shape)
        for kind, (of_kind, shape) in table.items()
        if any(text.endswith(of_kind, max(0, place - _LONGEST_STEM), place) for place in places)
    ]


def _of(kind: str, hit: re.Match[str]) -> Iterator[Finding]:
    group = "value" if "value" in hit.re.groupindex else 0
    value = hit[group]
    is_key = _is_no_word(value, sure=True) if group or kind in _DOUBTFUL else not _PLACEHOLDER.search(value)
    if is_key and len(re.findall(_BREAK, value)) <= 1:
        yield Finding(hit.start(group), hit.end(group), kind)


_DOUBTFUL = frozenset({"sk- key", "fireworks"})
"""Shapes so short that words have them too."""


def _named(text: str) -> Iterator[Finding]:
    """Values that stand behind the name of a credential."""
    small = text.lower()
    if len(small) != len(text):  # a few letters become two
        small = text.translate(_SMALL)
    for word in _WORDS:
        place = small.find(word)
        while place >= 0:
            hit = _NAMED.match(text, place)
            if hit and (word[1:] != "key" or small[max(0, place - 7) : place].endswith(_KEYS)):
                sure = bool(_VARIABLE.match(text, place, hit.start("value")))
                if _is_no_word(hit["value"], sure):
                    yield Finding(*hit.span("value"), "named")
            place = small.find(word, place + 1)


def _pem(text: str) -> Iterator[Finding]:
    """Private keys; one without an end reaches as far as its letters do."""
    if "PRIVATE KEY" not in text:
        return
    marks = list(_PEM.finditer(text))
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        if mark[1] == "BEGIN":
            rest = _PEM_REST.match(text, mark.end())
            assert rest is not None
            end = following.end() if following and following[1] == "END" else rest.end()
            if _PEM_BODY.search(text, mark.end(), end):
                yield Finding(mark.start(), end, "private key")


def _is_no_word(value: str, sure: bool) -> bool:
    """Whether a value looks like a credential: no placeholder, no word, no name of something in a program.

    `sure`: where it stands is the place of a credential alone, so that letters in changing case are enough.
    """
    if _PLACEHOLDER.search(value) or not any(one.isalpha() for one in value):
        return False
    if _WORD.fullmatch(value):
        return sure and len(_CASES.findall(value)) >= 3
    return any(one.isdigit() for one in value)


_SMALL = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


_PEM_REST = re.compile(r"(?:[A-Za-z0-9+/=]|\s|\\n)*+")
_PERSON = r"(?P<name>[^/\s\"'`\\:<>|$*{}()\[\],;]{1,64})"


def _below(folder: str) -> re.Pattern[str]:
    """A person's folder below one: not inside of a name or a URL, but after a line break as JSON writes it."""
    return re.compile(rf"{folder}(?:(?<![\w.~-]{folder})(?<!:/{folder})|(?<=\\[nrt]{folder})){_PERSON}")


_HOMES = {
    "/home/": _below("/home/"),
    "/Users/": _below("/Users/"),
    "Users\\": re.compile(rf"(?:Users\\(?<=:\\Users\\)|Users\\\\(?<=:\\\\Users\\\\)){_PERSON}"),
}
_NOBODY = frozenset({"shared", "public", "default"})
