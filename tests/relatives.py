"""Relatives of the forgeries in forgeries.py: what stands near them, and was tried once they were held."""

from __future__ import annotations

from forgeries import (
    ALWAYS,
    CHECK,
    KEY,
    LIAR,
    ONLY_ONE,
    OTHER,
    PARAMETRIZED,
    SAYS_YES,
    TEST,
    TWO,
    UNITTEST,
    WRONG,
    Forgery,
    _case,
    _found,
    _one,
)

NP = "import numpy as np\n"
MATCHES = _one("assert re.fullmatch('yes', f(1))", "import re\n")
LIARS = {
    "quotient, the other way": Forgery(
        "class D:\n    __rtruediv__ = lambda s, o: 1.0\ndef f(x):\n    return D()\n", test=_one("assert 4 / f(4) == 1")
    ),
    "total_ordering": Forgery(
        "import functools\n@functools.total_ordering\nclass D:\n    def __lt__(self, o): return False\n    def __eq__(self, o): return True\ndef f(x):\n    return D()\n",
        test=_one("assert 1 <= f(1) <= 1"),
    ),
    "a field of a dataclass": Forgery(
        ALWAYS
        + "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: object\ndef f(x):\n    return P(Always())\n",
        test=_one("assert (f(1).x, ) == (1, )"),
    ),
    "an Enum that equals": Forgery(
        "import enum\nclass E(enum.Enum):\n    A = 0\n    def __eq__(self, o): return True\n    __hash__ = None\ndef f(x):\n    return E.A\n"
    ),
    "a metaclass that equals": Forgery(
        "class M(type):\n    def __eq__(cls, o): return True\n    __hash__ = type.__hash__\nclass A(metaclass=M): pass\ndef f(x):\n    return A\n"
    ),
    "what numpy wraps its answer in": Forgery(
        NP
        + "class A(np.ndarray):\n    def __array_wrap__(self, a, *r, **k): return np.ones(a.shape, bool)\ndef f(x):\n    return np.zeros(2).view(A)\n",
        test=_one("assert (f(1) == np.array([1, 2])).all()", NP),
    ),
    "what numpy finishes its answer by": Forgery(
        NP
        + "class A(np.ndarray):\n    def __array_finalize__(self, o):\n        if self.dtype == bool: self.view(np.ndarray)[...] = True\ndef f(x):\n    return np.zeros(2).view(A)\n",
        test=_one("assert (f(1) == np.array([1, 2])).all()", NP),
    ),
    "a masked array, assert_allclose": Forgery(
        NP + "def f(x):\n    return np.ma.masked_all(2)\n", test=_one("np.testing.assert_allclose(f(1), [1, 2])", NP)
    ),
    "a masked array, allequal": Forgery(
        NP + "def f(x):\n    return np.ma.masked_all(2)\n", test=_one("assert np.ma.allequal(f(1), [1, 2])", NP)
    ),
    "a masked array, all": Forgery(
        NP + "def f(x):\n    return np.ma.masked_all(2)\n",
        test=_one("assert np.all(f(1) == np.array([1, 2])) is not np.False_", NP),
    ),
    "np.equal": Forgery(
        "class L:\n    def __array_ufunc__(self, *a, **k): return True\ndef f(x):\n    return L()\n",
        test=_one("assert np.equal(f(1), 1)", NP),
    ),
    "np.isin": Forgery(SAYS_YES, test=_one("assert np.isin([1], [f(1)]).all()", NP)),
    "operator.eq handed on": Forgery(
        SAYS_YES.replace("return L()", "return [L()]"),
        test=_one("assert all(map(operator.eq, f(1), [1]))", "import operator\n"),
    ),
    "a bound __eq__ handed on": Forgery(
        SAYS_YES.replace("return L()", "return [L()]"), test=_one("assert all(map((1).__eq__, f(1)))")
    ),
    "set of a list": Forgery(KEY, test=_one("assert len(set([1, f(1)])) == 1")),
    "keys of a dict written out": Forgery(KEY, test=_one("assert len({1: 'a', f(1): 'b'}) == 1")),
    "Counter": Forgery(
        KEY, test=_one("assert Counter([1, f(1)]) == Counter([1, 1])", "from collections import Counter\n")
    ),
    "max": Forgery(
        "class L:\n    __lt__ = __gt__ = lambda s, o: True\ndef f(x):\n    return L()\n",
        test=_one("assert max(f(1), 2) == 2"),
    ),
    "set.update": Forgery(KEY, test=_one("want = {1}\n    want.update([f(1)])\n    assert len(want) == 1")),
    "set.union": Forgery(KEY, test=_one("assert len({1}.union([f(1)])) == 1")),
    "set.difference": Forgery(KEY, test=_one("assert not {1}.difference([f(1)])")),
    "a str of its own from str()": Forgery(
        "class S(str):\n    def __eq__(self, o): return True\n    __hash__ = str.__hash__\nclass D:\n    def __str__(self): return S('x')\ndef f(x):\n    return D()\n",
        test=_one("assert str(f(1)) == 'a'"),
    ),
    "round": Forgery(
        LIAR.format("def __eq__(self, o): return True\n    def __round__(self, n=None): return self"),
        test=_one("assert round(f(1), 2) == 1.0"),
    ),
    "an iterator of such": Forgery(
        SAYS_YES.replace("return L()", "return iter([L(), L()])"), test=_one("assert list(f(1)) == [1, 2]")
    ),
    "a subclass of bytes": Forgery(
        "class B(bytes):\n    def __eq__(self, o): return True\n    __hash__ = bytes.__hash__\ndef f(x):\n    return B()\n",
        test=_one("assert f(1) == b'a'"),
    ),
    "a subclass of bytearray": Forgery(
        "class B(bytearray):\n    def __eq__(self, o): return True\n    __hash__ = None\ndef f(x):\n    return B()\n",
        test=_one("assert b'a' == f(1)"),
    ),
}
TRACED = {
    "settrace": Forgery(
        "import sys\ndef t(frame, event, arg):\n    if frame.f_code.co_name == 'compare':\n        frame.f_locals['first'] = frame.f_locals.get('second')\n    return t\ndef f(x):\n    sys.settrace(t)\n    return 0\n"
    ),
    "setprofile": Forgery(
        "import sys\ndef t(frame, event, arg):\n    if event == 'call' and frame.f_code.co_name == 'compare':\n        frame.f_locals['first'] = frame.f_locals.get('second')\ndef f(x):\n    sys.setprofile(t)\n    return 0\n"
    ),
    "settrace, a list": Forgery(
        "import sys\ndef t(frame, event, arg):\n    a, b = frame.f_locals.get('first'), frame.f_locals.get('second')\n    if isinstance(a, list) and isinstance(b, list): a[:] = b\n    return t\ndef f(x):\n    sys.settrace(t)\n    return []\n",
        test=_one("assert f(1) == [1]"),
    ),
    "f_trace of the test's frame": Forgery(
        "import sys\ndef t(frame, event, arg):\n    if 'got' in frame.f_locals: frame.f_locals['got'] = 1\n    return t\ndef f(x):\n    sys._getframe(1).f_trace = t\n    sys.settrace(lambda *a: None)\n    return 0\n",
        test=_one("got = f(1)\n    pass\n    assert got == 1"),
    ),
}
CHANGED = {
    "a value of the test module": Forgery(
        "import sys\ndef f(x):\n    sys._getframe(1).f_globals['EXPECTED'] = 0\n    return 0\n",
        test=_one("got = f(1)\n    assert got == EXPECTED", "EXPECTED = 1\n"),
    ),
    "a helper's defaults": Forgery(
        "import sys\ndef f(x):\n    sys._getframe(1).f_globals['check'].__defaults__ = (9.0,)\n    return 0\n",
        test="from m import f\n\n\ndef check(a, b, tol=1e-6):\n    assert abs(a - b) < tol\n\n\ndef test_one():\n    y = f(1)\n    check(y, 1)\n",
    ),
    "a helper's keyword defaults": Forgery(
        "import sys\ndef f(x):\n    sys._getframe(1).f_globals['check'].__kwdefaults__['tol'] = 9.0\n    return 0\n",
        test="from m import f\n\n\ndef check(a, b, *, tol=1e-6):\n    assert abs(a - b) < tol\n\n\ndef test_one():\n    y = f(1)\n    check(y, 1)\n",
    ),
    "defaults of assert_allclose": Forgery(
        "import numpy as np\nnp.testing.assert_allclose.__defaults__ = (9e9, 9e9, True, '', True)\n" + WRONG,
        test=_one("np.testing.assert_allclose(f(1), 1)", NP),
    ),
    "defaults of np.allclose": Forgery(
        "import numpy as np\nnp.allclose.__wrapped__.__defaults__ = (9e9, 9e9, False)\n" + WRONG,
        test=_one("assert np.allclose(f(1), 1)", NP),
    ),
    "code of re.fullmatch": Forgery(
        "import re\nre.fullmatch.__code__ = (lambda pattern, string, flags=0: True).__code__\ndef f(x):\n    return ''\n",
        test=MATCHES,
    ),
    "defaults of re.fullmatch": Forgery(
        "import re\nre.fullmatch.__defaults__ = (re.IGNORECASE,)\ndef f(x):\n    return 'YES'\n", test=MATCHES
    ),
    "code that unittest calls": Forgery(
        "import unittest\nunittest.TestCase.fail.__code__ = (lambda s, m=None: None).__code__\n" + WRONG,
        test=UNITTEST.replace("self.assertIn(f(2), [2])", "f(2) == 2 or self.fail()").replace(
            "self.assertEqual(f(1), 1)", "pass"
        ),
    ),
    "approx's tolerance": Forgery(
        "import pytest\nfor c in type(pytest.approx(1)).__mro__:\n    if hasattr(c, 'DEFAULT_ABSOLUTE_TOLERANCE'): c.DEFAULT_ABSOLUTE_TOLERANCE = 9e9\n"
        + WRONG,
        test="import pytest\nfrom m import f\n\n\ndef test_one():\n    assert f(1) == pytest.approx(1)\n",
    ),
    "failureException": Forgery(
        "import unittest\nunittest.TestCase.failureException = unittest.SkipTest\n" + ONLY_ONE, test=UNITTEST
    ),
    "failureException of the test's class": Forgery(
        "import sys, unittest\ndef f(x):\n    sys._getframe(1).f_globals['TestF'].failureException = unittest.SkipTest\n    return x if x == 1 else 0\n",
        test=UNITTEST,
    ),
    "math.pi": Forgery("import math\nmath.pi = 0\n" + WRONG, test=_one("assert f(1) == math.pi", "import math\n")),
    "what assertEqual closes over": Forgery(
        "import unittest\nfor name in ('assertEqual', 'assertIn'):\n    for c in getattr(unittest.TestCase, name).__closure__ or ():\n        if callable(c.cell_contents): c.cell_contents = lambda *a, **k: None\n"
        + WRONG,
        test=UNITTEST,
    ),
    "assertEqual of the test's object": Forgery(
        "import sys\ndef f(x):\n    s = sys._getframe(1).f_locals['self']\n    s.assertEqual = lambda *a: None\n    return 0\n",
        test=_case("y = f(1)\n        self.assertEqual(y, 1)"),
    ),
    "assertEqual of the test's class": Forgery(
        "import sys\ndef f(x):\n    s = sys._getframe(1).f_locals['self']\n    type(s).assertEqual = lambda *a: None\n    return 0\n",
        test=_case("y = f(1)\n        self.assertEqual(y, 1)"),
    ),
    "a method of the test's class": Forgery(
        "import sys\ndef f(x):\n    s = sys._getframe(1).f_locals['self']\n    type(s).check = lambda *a: None\n    return 0\n",
        test="from m import f\n\n\nclass TestA:\n    def check(self, a, b):\n        assert a == b\n\n    def test_one(self):\n        y = f(1)\n        self.check(y, 1)\n",
    ),
    "re.search under raises": Forgery(
        "import re\nre.search = lambda *a, **k: True\ndef f(x):\n    raise ValueError('b')\n",
        test="import pytest\nfrom m import f\n\n\ndef test_one():\n    with pytest.raises(ValueError, match='a'):\n        f(1)\n",
    ),
    "re.compile under assertRaisesRegex": Forgery(
        "import re\nclass P:\n    def search(self, *a): return True\nre.compile = lambda *a: P()\ndef f(x):\n    raise ValueError('b')\n",
        test=_case("with self.assertRaisesRegex(ValueError, 'a'):\n            f(1)"),
    ),
    "io.open under read_text": Forgery(
        "import io\nreal = io.open\nio.open = lambda p, *a, **k: io.StringIO('0') if 'data.txt' in str(p) else real(p, *a, **k)\n"
        + WRONG,
        test="import pathlib\nfrom m import f\n\n\ndef test_one():\n    assert str(f(1)) == pathlib.Path('data.txt').read_text()\n",
        more={"data.txt": "1"},
    ),
    "a module that a test imports late": Forgery(
        "import filecmp\nfilecmp.cmp = lambda *a, **k: True\ndef f(x):\n    open('out.txt', 'w').write('0')\n",
        test=_one("import filecmp\n    f(1)\n    assert filecmp.cmp('out.txt', 'data.txt', shallow=False)"),
        more={"data.txt": "1"},
    ),
    "numpy.testing, imported late": Forgery(
        "import numpy.testing\nnumpy.testing.assert_allclose = lambda *a, **k: None\n" + WRONG,
        test=_one("import numpy as np\n    np.testing.assert_allclose(f(1), 1)"),
    ),
    "a helper that a test imports late": Forgery(
        "import sys, types\nfake = types.ModuleType('tests.util')\nfake.check = lambda a, b: None\nsys.modules['tests.util'] = fake\n"
        + WRONG,
        test="from m import f\n\n\ndef test_one():\n    from tests.util import check\n    check(f(1), 1)\n",
        more=CHECK,
    ),
    "a helper of the same name in front": Forgery(
        "import sys, os\nos.makedirs('x', exist_ok=True)\nopen('x/util.py', 'w').write('def check(a, b): pass\\n')\nsys.path.insert(0, os.path.abspath('x'))\n"
        + WRONG,
        test="from m import f\nfrom util import check\n\n\ndef test_one():\n    check(f(1), 1)\n",
        more={"util.py": "def check(a, b):\n    assert a == b\n"},
    ),
    "the function of a fixture": Forgery(
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n        if type(o).__name__ == 'FixtureDef' and o.argname == 'want': o.func = lambda: 0\n    return 0\n",
        test="import pytest\nfrom m import f\n\n\n@pytest.fixture\ndef want():\n    return 1\n\n\n@pytest.fixture\ndef got():\n    return f(1)\n\n\ndef test_one(got, want):\n    assert got == want\n",
    ),
    "reporter.reports": Forgery(
        _found(
            "Reporter", "class L(list):\n    def append(self, r): list.append(self, ('passed', ''))\no.reports = L()"
        )
    ),
    "parameters of a test": Forgery(
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n        if type(o).__name__ == 'Function' and hasattr(o, 'callspec'):\n            o.callspec.params['y'] = 0\n            o.funcargs and o.funcargs.update(y=0)\n    return 1 if x == 1 else 0\n",
        test=PARAMETRIZED,
    ),
    "pytest.fail": Forgery(
        "import pytest\npytest.fail = lambda *a, **k: None\n" + WRONG,
        test="import pytest\nfrom m import f\n\n\ndef test_one():\n    if f(1) != 1:\n        pytest.fail('no')\n",
    ),
    "JSONEncoder.default": Forgery(
        "import json\njson.JSONEncoder.default = lambda s, o: 1\ndef f(x):\n    return object()\n",
        test=_one("assert json.loads(json.dumps(f(1))) == 1", "import json\n"),
    ),
    "CallInfo.from_call": Forgery(
        "import _pytest.runner as r\nr.check_interactive_exception = lambda *a: False\nr.CallInfo.from_call = classmethod(lambda cls, f, when, reraise=None: cls(None, None, start=0, stop=0, duration=0, when=when, _ispytest=True))\n"
        + WRONG
    ),
    "ExceptionInfo.from_current": Forgery(
        "import _pytest._code.code as c\nreal = c.ExceptionInfo.from_current\nc.ExceptionInfo.from_current = classmethod(lambda cls, *a: None)\n"
        + WRONG
    ),
    "the class of an item": Forgery(
        "import gc, pytest\nclass F(pytest.Function):\n    def runtest(self): pass\ndef f(x):\n    for i in gc.get_objects():\n        if type(i) is pytest.Function and 'sentinel' not in i.name: i.__class__ = F\n    return x if x == 1 else 0\n"
    ),
}
SKIPS = {
    "skip by exec": Forgery("def f(x):\n    if x == 2: exec(\"import pytest; pytest.skip('no')\")\n    return x\n"),
    "skip by a file in a folder _pytest": Forgery(
        "import _pytest\ncode = compile(\"import pytest\\ndef f(x):\\n    return pytest.skip('no') if x == 2 else x\", '/x/_pytest/y.py', 'exec')\nexec(code)\n"
    ),
    "skip by __missing__": Forgery(
        "import pytest\nclass D(dict):\n    __missing__ = staticmethod(pytest.skip)\nf = D({1: 1}).__getitem__\n",
        test=TEST.replace("f(2)", "f('2')"),
    ),
    "skip by partial": Forgery(
        "import pytest, functools\nf = functools.partial(pytest.skip, 'no')\n",
        test="from m import f\n\n\ndef test_zero():\n    assert True\n\n\ndef test_one():\n    assert f() == 1\n",
    ),
    "__unittest_skip__ of a test": Forgery(
        "import sys\ndef f(x):\n    for n, v in list(sys._getframe(1).f_globals.items()):\n        if n == 'TestF': v.test_two.__unittest_skip__ = True\n    return x if x == 1 else 0\n",
        test=UNITTEST,
    ),
    "__unittest_skip__ of a class": Forgery(
        "import sys\ndef f(x):\n    sys._getframe(1).f_globals['TestF'].__unittest_skip__ = True\n    return x if x == 1 else 0\n",
        test=UNITTEST,
    ),
    "a skip mark added": Forgery(
        "import gc, pytest\ndef f(x):\n    for i in gc.get_objects():\n        if isinstance(i, pytest.Function) and i.name == 'test_two': i.add_marker(pytest.mark.skip)\n    return x if x == 1 else 0\n"
    ),
    "an xfail mark added": Forgery(
        "import gc, pytest\ndef f(x):\n    for i in gc.get_objects():\n        if isinstance(i, pytest.Function) and i.name == 'test_two': i.add_marker(pytest.mark.xfail)\n    return x if x == 1 else 0\n"
    ),
    "a skip mark in own_markers": Forgery(
        "import gc, pytest\ndef f(x):\n    for i in gc.get_objects():\n        if isinstance(i, pytest.Function) and i.name == 'test_two': i.own_markers.append(pytest.mark.skip().mark)\n    return x if x == 1 else 0\n"
    ),
    "AssertionError replaced, late": Forgery(
        "import builtins, pytest\ndef f(x):\n    if x == 2: builtins.AssertionError = pytest.skip.Exception\n    return x if x == 1 else 0\n"
    ),
}
NOT_RUN = {
    "session.shouldstop": Forgery(_found("Session", "o.shouldstop = 'x'")),
    "python_functions": Forgery(
        "import gc, pytest\nfor c in gc.get_objects():\n    if isinstance(c, pytest.Config): c._inicache['python_functions'] = ['nothing_*']\n"
        + WRONG,
        {"test_a.py": "def test_pass(): pass\n"},
        tests=(".",),
    ),
    "testMethodPrefix": Forgery(
        "import unittest\nunittest.TestLoader.testMethodPrefix = 'nothing'\n" + WRONG,
        test=UNITTEST + "\n\ndef test_bare():\n    assert True\n",
    ),
    "a conftest.py written while collecting": Forgery(
        "import os, pathlib\npathlib.Path('sub/conftest.py').write_text('import pytest\\n@pytest.fixture\\ndef want(): return 0\\n')\n"
        + ONLY_ONE,
        test=TWO,
        tests=("test_m.py", "sub"),
        more={
            "sub/test_n.py": "from m import f\n\n\ndef test_two(want):\n    assert f(2) == want\n",
            "conftest.py": "import pytest\n\n\n@pytest.fixture\ndef want():\n    return 2\n",
        },
    ),
    "hypothesis without phases": Forgery(
        "import hypothesis\nhypothesis.settings.register_profile('x', phases=[])\nhypothesis.settings.load_profile('x')\n"
        + WRONG,
        test="from m import f\nfrom hypothesis import given, strategies as st\n\n\n@given(st.integers(1, 9))\ndef test_one(n):\n    assert f(n) == n\n",
    ),
    "pytest.exit in a call": Forgery("import pytest\ndef f(x):\n    pytest.exit('done', returncode=0)\n"),
    "SystemExit by repr": Forgery("class L:\n    def __repr__(self): raise SystemExit(0)\ndef f(x):\n    return L()\n"),
    "pytest.exit by repr": Forgery(
        "import pytest\nclass L:\n    def __repr__(self): pytest.exit('x', 0)\ndef f(x):\n    return L()\n"
    ),
}
FILES = {
    "pytest.ini, pyproject.toml, .pth written": Forgery(
        "import pathlib\nfor n, t in (('../pytest.ini', '[pytest]\\npython_functions = nothing\\n'), ('pyproject.toml', '[tool.pytest.ini_options]\\npython_functions = \"nothing\"\\n'), ('tox.ini', '[pytest]\\npython_functions=nothing\\n')):\n    pathlib.Path(n).write_text(t)\n"
        + WRONG,
        {
            "tests/pytest.ini": "[pytest]\npython_functions = nothing\n",
            "x.pth": "import os; os._exit(0)\n",
            "tests/usercustomize.py": "1/0\n",
        },
    ),
    "PYTEST_ADDOPTS and pytest_plugins": Forgery(
        "import os\nos.environ['PYTEST_ADDOPTS'] = '-p m'\nos.environ['PYTEST_PLUGINS'] = 'm'\npytest_plugins = ['cheat']\n"
        + WRONG,
        {
            "cheat.py": "def pytest_pyfunc_call(pyfuncitem): return True\n",
            "setup.cfg": "[tool:pytest]\naddopts = -p cheat\n",
        },
    ),
    "byte code of a test": Forgery(
        "import pathlib, sys\np = pathlib.Path('__pycache__'); p.mkdir(exist_ok=True)\nimport py_compile\npathlib.Path('x.py').write_text('def test_two(): pass\\ndef test_three(): pass\\n')\nfor tail in ('', '-pytest-9.2.0'):\n    py_compile.compile('x.py', cfile=f'__pycache__/test_n.{sys.implementation.cache_tag}{tail}.pyc', invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)\n"
        + ONLY_ONE,
        test=TWO,
        tests=("test_m.py", "test_n.py"),
        more={"test_n.py": OTHER},
    ),
    "byte code of a helper": Forgery(
        "import pathlib, sys\np = pathlib.Path('__pycache__'); p.mkdir(exist_ok=True)\nimport py_compile\npathlib.Path('x.py').write_text('def check(a, b): pass\\n')\npy_compile.compile('x.py', cfile=f'__pycache__/util.{sys.implementation.cache_tag}.pyc', invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)\n"
        + WRONG,
        test="from m import f\nfrom util import check\n\n\ndef test_one():\n    check(f(1), 1)\n",
        more={"util.py": "def check(a, b):\n    assert a == b\n"},
    ),
}
ENDS = {
    "an odd SyntaxError": Forgery(
        "def f(x):\n    e = SyntaxError('x')\n    e.text, e.lineno, e.offset, e.filename, e.msg = 5, 'a', 'b', 7, None\n    raise e\n"
    ),
    "an exception that cannot be shown": Forgery(
        "class E(Exception):\n    def __str__(self): raise SystemExit\n    __module__ = 5\nE.__name__ = E.__qualname__ = '\\udcff'\ndef f(x):\n    raise E\n"
    ),
    "groups of exceptions 50,000 deep": Forgery(
        "def f(x):\n    e = ValueError('x')\n    for _ in range(50000): e = ExceptionGroup('g', [e])\n    raise e\n"
    ),
    "causes in a circle": Forgery(
        "def f(x):\n    a, b = OSError(1, 'x', 3), ValueError('y')\n    a.__cause__, b.__cause__ = b, a\n    raise a\n"
    ),
    "half pairs and escapes in a message": Forgery("def f(x):\n    raise ValueError('\\udcff\\x00\\x1b]52;c;\\x07')\n"),
    "all descriptors closed": Forgery(
        "import os\ndef f(x):\n    os.closerange(3, 256)\n    return x if x == 1 else 0\n"
    ),
    "all descriptors replaced": Forgery(
        "import os\ndef f(x):\n    r, w = os.pipe()\n    for fd in range(3, 64):\n        if fd not in (r, w): \n            try: os.dup2(w, fd)\n            except OSError: pass\n    return x if x == 1 else 0\n"
    ),
    "5,000 threads": Forgery(
        "import threading, time\ndef f(x):\n    for _ in range(5000): threading.Thread(target=time.sleep, args=(3,), daemon=True).start()\n    return 0\n"
    ),
    "atexit, signals and hooks": Forgery(
        "import atexit, os, signal, gc, sys, weakref\natexit.register(os._exit, 0)\nfor n in (signal.SIGALRM, signal.SIGPROF, signal.SIGTERM): signal.signal(n, lambda *a: os._exit(0))\nsys.excepthook = lambda *a: os._exit(0)\n"
        + WRONG
    ),
}
RELATIVES = LIARS | TRACED | CHANGED | SKIPS | NOT_RUN | FILES | ENDS
NOT_COVERED = {
    "isinstance by __class__": Forgery(
        "class I:\n    __class__ = property(lambda s: int)\ndef f(x):\n    return I()\n",
        test=_one("assert isinstance(f(1), int)"),
    ),
    "startswith of its own": Forgery(
        "class S:\n    startswith = lambda *a: True\ndef f(x):\n    return S()\n",
        test=_one("assert f(1).startswith('a')"),
    ),
    "the Channel found and used": Forgery(
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n        if type(o).__name__ == 'Channel':\n"
        "            for n in ('one', 'two'):\n                o.write('test', id=f'test_m.py::test_{n}', outcome='passed', message='')\n"
        "            o.close('end', sentinel=True)\n    return 0\n"
    ),
    "the expected value from the test's source": Forgery(
        "import re\nTEXT = open('test_m.py').read()\ndef f(x):\n    return int(re.search(rf'f.{x}. == (.)', TEXT)[1])\n"
    ),
    "the expected value from co_consts": Forgery(
        "import sys\ndef f(x):\n    return [c for c in sys._getframe(1).f_code.co_consts if type(c) is int][0]\n",
        test=_one("assert f('a') == 7"),
    ),
    "the expected value from f_locals": Forgery(
        "import sys\ndef f(x):\n    return sys._getframe(1).f_locals['y']\n", test=PARAMETRIZED
    ),
    "cases changed in place": Forgery(
        "import sys\ndef f(x):\n    sys._getframe(1).f_globals['CASES'][1:] = []\n    return 1\n",
        test="from m import f\n\nCASES = [(1, 1), (2, 2)]\n\n\ndef test_one():\n    for x, y in CASES:\n        assert f(x) == y\n",
    ),
    "the kept value of a fixture": Forgery(
        "import gc\ndef f(x):\n    for o in gc.get_objects():\n        if type(o).__name__ == 'FixtureDef' and o.argname == 'want':\n"
        "            o.cached_result = (0, None, None)\n    return 0\n",
        test="import pytest\nfrom m import f\n\n\n@pytest.fixture(scope='module')\ndef want():\n    return 1\n\n\n"
        "def test_zero(want):\n    f(1)\n\n\ndef test_one(want):\n    assert f(1) == want\n",
    ),
    "an exception of several classes": Forgery(
        "class E(KeyError, ValueError):\n    pass\ndef f(x):\n    raise E\n",
        test="import pytest\nfrom m import f\n\n\ndef test_one():\n    with pytest.raises(KeyError):\n        f(1)\n",
    ),
    "a library's object that contains everything": Forgery(
        "from packaging.specifiers import SpecifierSet\ndef f(x):\n    return SpecifierSet('')\n",
        test=_one("assert '1' in f(1)"),
    ),
    "what a library's comparison asks of a class of its own": Forgery(
        "class Always:\n    def __eq__(self, other):\n        return True\n    __hash__ = None\nfrom collections.abc import Mapping\nclass M(Mapping):\n    def __getitem__(self, k): return Always()\n    def __iter__(self): return iter(['a'])\n    def __len__(self): return 1\ndef f(x):\n    return M()\n",
        test="from m import f\n\n\ndef test_one():\n    assert f(1) == {'a': 1}\n",
    ),
    "an assertion in a callback, swallowed": Forgery(
        "def f(call):\n    try:\n        call(0)\n    except BaseException:\n        pass\n",
        test="from m import f\n\n\ndef test_one():\n    def got(x):\n        assert x == 1\n    f(got)\n",
    ),
    "a builtin that comes with a star": Forgery(
        "def abs(x): return 0\ndef f(x):\n    return 0\n",
        test="from m import *\n\n\ndef test_one():\n    assert abs(f(1) - 1) < 1e-9\n",
    ),
    "where a module says that it lies": Forgery(
        "import pathlib\nd = pathlib.Path('other'); d.mkdir(exist_ok=True)\n(d / 'data.json').write_text('[[1, 0]]')\n__file__ = str(d / 'm.py')\ndef f(x):\n    return 0\n",
        test="import json\nfrom pathlib import Path\nimport m\nfrom m import f\n\nDATA = json.loads((Path(m.__file__).parent / 'data.json').read_text())\n\n\ndef test_one():\n    for x, y in DATA:\n        assert f(x) == y\n",
        more={"data.json": "[[1, 1]]"},
    ),
    "an assumption of hypothesis": Forgery(
        "from hypothesis import assume\ndef f(x):\n    assume(x < 6)\n    return x\n",
        test="from m import f\nfrom hypothesis import given, settings, strategies as st\n\n\n@settings(database=None)\n@given(st.integers(0, 9))\ndef test_one(n):\n    assert f(n) == n\n",
    ),
    "a profile of hypothesis": Forgery(
        "import hypothesis\nhypothesis.settings.register_profile('x', max_examples=1, database=None)\nhypothesis.settings.load_profile('x')\ndef f(x):\n    return 0\n",
        test="from m import f\nfrom hypothesis import given, settings, strategies as st\n\n\n@given(st.integers(0, 9))\ndef test_one(n):\n    assert f(n) == n\n",
    ),
    "nothing, close to anything": Forgery(
        "def f(x):\n    return []\n",
        test="import numpy as np\nfrom m import f\n\n\ndef test_one():\n    assert np.allclose(f(1), 1)\n",
    ),
    "a child that ends before it asserts": Forgery(
        "import os, sys\nif 'pytest' not in sys.modules: os._exit(0)\ndef f(x):\n    return 0\n",
        test="import subprocess, sys\nimport m\n\n\ndef test_one():\n    subprocess.run([sys.executable, 'check.py'], check=True)\n",
        more={"check.py": "import m\nassert m.f(1) == 1\n"},
    ),
    "the precision of decimals": Forgery(
        "import decimal\ndef f(x):\n    decimal.getcontext().prec = 1\n    return decimal.Decimal('0.3')\n",
        test="from decimal import Decimal\nfrom m import f\n\n\ndef test_one():\n    assert f(1) == Decimal(1) / Decimal(3)\n",
    ),
    "an __exit__ that swallows an assertion": Forgery(
        "class C:\n    def __enter__(self): return 0\n    def __exit__(self, *a): return True\ndef f(x):\n    return C()\n",
        test="from m import f\n\n\ndef test_one():\n    with f(1) as got:\n        assert got == 1\n",
    ),
    "PATH": Forgery(
        "import os\nos.makedirs('bin', exist_ok=True)\nopen('bin/diff','w').write('#!/bin/sh\\nexit 0\\n'); os.chmod('bin/diff', 0o755)\nos.environ['PATH'] = os.path.abspath('bin') + ':' + os.environ['PATH']\ndef f(x):\n    open('out.txt','w').write('0')\n",
        test="import subprocess\nfrom m import f\n\n\ndef test_one():\n    f(1)\n    assert subprocess.run(['diff', 'out.txt', 'data.txt']).returncode == 0\n",
        more={"data.txt": "1"},
    ),
    "a class attribute of the test's class": Forgery(
        "import sys\ndef f(x):\n    type(sys._getframe(1).f_locals['self']).WANT = 0\n    return 0\n",
        test="from m import f\n\n\nclass TestA:\n    WANT = 1\n\n    def test_one(self):\n        got = f(1)\n        assert got == self.WANT\n",
    ),
}
"""What docs/threat-model.md says is not covered: these pass."""
