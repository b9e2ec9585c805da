"""Wrong fixes that make themselves look right: none passes, on any layer, and honest code is not accused."""

from __future__ import annotations

from pathlib import Path

import pytest
from attacks import ATTACKS
from forgeries import FORGERIES, GOOD, RAISES, TEST, UNITTEST, Forgery, forged
from kin import KIN
from relatives import NOT_COVERED, RELATIVES

from repo_agent.sandbox import canary
from repo_agent.sandbox.grade import grade_now
from repo_agent.sandbox.isolate import LAYERS, Isolation
from repo_agent.sandbox.job import TestJob
from repo_agent.sandbox.workspace import Workspace


@pytest.fixture(scope="module", params=["default", *(pytest.param(name, marks=pytest.mark.slow) for name in LAYERS)])
def layer(request: pytest.FixtureRequest) -> Isolation:
    if request.param == "default":
        return canary.choose(unsafe_local=True)
    if reason := canary.fault(request.param):
        pytest.skip(reason)
    return Isolation(request.param)


QUICK = (
    *("sys.exit(0) at import", "os._exit(0) in a call", "test edited", "new conftest.py", "unittest/ in the workspace"),
    *("Function.runtest replaced", "subclassed int", "SkipTest in a call", "results written to every descriptor"),
    *("settrace", "a value of the test module", "skip by exec", "set of a list", "re.search under raises"),
)


@pytest.mark.parametrize("name", QUICK)
def test_the_plainest_forgeries_fail(name: str) -> None:
    forgery = (FORGERIES | RELATIVES | KIN)[name]
    assert forged(forgery, canary.choose(unsafe_local=True)).outcome in ("failed", "crashed", "tampered")


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FORGERIES, *RELATIVES, *KIN])
def test_no_forgery_passes(name: str, layer: Isolation) -> None:
    result = forged((FORGERIES | RELATIVES | KIN)[name], layer)
    assert result.outcome in ("failed", "crashed", "tampered"), result


@pytest.mark.parametrize(
    ("program", "test"),
    [
        pytest.param(GOOD, TEST, id="plain"),
        pytest.param(GOOD, UNITTEST, id="unittest"),
        pytest.param("def f(x):\n    raise KeyError\n", RAISES, id="raises"),
        pytest.param(
            "import enum\nclass E(enum.IntEnum):\n    A = 1\n    B = 2\ndef f(x):\n    return E(x)\n",
            TEST,
            id="an enum",
        ),
        pytest.param(
            "class I(int):\n    pass\ndef f(x):\n    return I(x)\n", TEST, id="a subclass that compares as its base"
        ),
        pytest.param(
            "class M:\n    def __init__(self, n):\n        self.n = n\n    def __eq__(self, o):\n"
            "        return isinstance(o, M) and o.n == self.n\ndef f(x):\n    return M(x)\n",
            "from m import M, f\n\n\ndef test_one():\n    assert f(1) == M(1)\n    assert f(1) != 1\n    assert f(1) != M(2)\n",
            id="a class that compares with its own",
        ),
        pytest.param(
            "from collections import Counter, OrderedDict\ndef f(x):\n    return Counter(a=x), OrderedDict(a=x)\n",
            "from m import f\n\n\ndef test_one():\n    assert f(1) == ({'a': 1}, {'a': 1})\n",
            id="library containers",
        ),
        pytest.param(
            "def f(x):\n    return x\n",
            "import builtins\nfrom m import f\n\n\ndef test_one(monkeypatch):\n"
            "    monkeypatch.setattr(builtins, 'len', lambda _: 7)\n    assert len([]) == 7\n",
            id="a test that patches and puts back",
        ),
        pytest.param(
            "def f(x):\n    return x\n",
            "import pytest\nfrom m import f\n\n\n@pytest.mark.parametrize('x', [1, pytest.param(2, marks=pytest.mark.skip)])\n"
            "def test_one(x):\n    assert f(x) == x\n\n\ndef test_two():\n    pytest.skip('slow')\n\n\n"
            "@pytest.mark.xfail\ndef test_three():\n    assert f(1) == 2\n",
            id="skips of the test's own",
        ),
        pytest.param(
            GOOD,
            "import pytest\nfrom m import f\n\n\nclass TestBase:\n    x = 1\n\n    def test_one(self):\n"
            "        assert f(self.x) == self.x\n\n\nclass TestMore(TestBase):\n    x = 2\n\n\n"
            "class Helper:\n    def test_not(self):\n        assert 0\n\n\n@pytest.fixture\ndef test_data():\n    return 3\n\n\n"
            "def test_two(test_data):\n    assert f(test_data) == 3\n",
            id="classes, and a fixture named like a test",
        ),
        pytest.param(
            "def f(x):\n    return x\n",
            "from m import f\n\n\ndef test_one():\n    assert 0 < f(1) < 2 and (y := f(2)) == 2 and y is not None\n"
            "    assert f(3) in {3} and not f(0) == 1\n",
            id="chains and walrus",
        ),
    ],
)
def test_honest_code_passes(program: str, test: str, layer: Isolation) -> None:
    result = forged(Forgery(program, test=test), layer)
    assert result.outcome == "passed", result


def test_a_class_that_the_task_lets_compare() -> None:
    program = (
        "class Money(int):\n    def __eq__(self, o):\n        return int(self) == o\ndef f(x):\n    return Money(x)\n"
    )
    for comparing, outcome in (
        (frozenset({"m.py::Money"}), "passed"),
        (frozenset({"other.py::Money"}), "tampered"),
        (frozenset(), "tampered"),
    ):
        job = TestJob(tests=("test_m.py",), pristine={"test_m.py": TEST}, comparing=comparing)
        with Workspace({"m.py": program}) as workspace:
            assert grade_now(workspace.root, job, canary.choose(unsafe_local=True)).outcome == outcome


@pytest.mark.slow
@pytest.mark.parametrize("name", NOT_COVERED)
def test_what_is_said_to_be_not_covered_is_not(name: str) -> None:
    """Should one of these be held one day, docs/threat-model.md is to be changed."""
    assert forged(NOT_COVERED[name], canary.choose(unsafe_local=True)).outcome == "passed"


def test_the_threat_model_names_everything_that_is_tried() -> None:
    page = (Path(__file__).parent.parent / "docs/threat-model.md").read_text()
    rows = [row.split("|") for row in page.split("containment -->")[1].splitlines() if row.startswith("| ")]
    named = [name.strip() for row in rows[1:] for name in row[2].split(";")]
    assert sorted(named) == sorted([*ATTACKS, *FORGERIES, *RELATIVES, *KIN])
