"""More relatives of the forgeries, found by somebody who had read how those are held."""

from __future__ import annotations

from forgeries import Forgery

LIES = {
    "a module in a temporary folder": Forgery(
        "import sys, tempfile, pathlib\nd = tempfile.mkdtemp()\npathlib.Path(d, 'alw.py').write_text('class L:\\n    __hash__ = None\\n    def __eq__(self, o):\\n        return isinstance(o, int)\\n')\nsys.path.insert(0, d)\nfrom alw import L\ndef f(x):\n    return L()\n"
    ),
    "a UserList whose data is a property": Forgery(
        "class Always:\n    def __eq__(self, other):\n        return True\n    __hash__ = None\nimport collections\nclass L(collections.UserList):\n    data = property(lambda s: Always(), lambda s, v: None)\ndef f(x):\n    return L()\n",
        test="from m import f\n\n\ndef test_one():\n    assert f(1) == [1, 2]\n",
    ),
    "what a mock was called with": Forgery(
        "from unittest import mock\ndef f(cb):\n    cb(mock.ANY)\n",
        test="from unittest import mock\nfrom m import f\n\n\ndef test_one():\n    cb = mock.Mock()\n    f(cb)\n    cb.assert_called_once_with(5)\n",
    ),
    "a masked array, by keywords": Forgery(
        "import numpy as np\ndef f(x):\n    return np.ma.masked_all(2)\n",
        test="import numpy as np\nfrom m import f\n\n\ndef test_one():\n    np.testing.assert_allclose(actual=f(1), desired=[1, 2])\n",
    ),
    "a masked array, allclose by another name": Forgery(
        "import numpy as np\ndef f(x):\n    return np.ma.masked_all(2)\n",
        test="from numpy import allclose as near\nfrom m import f\n\n\ndef test_one():\n    assert near(f(1), [1, 2])\n",
    ),
    "numpy's own protocol, allclose by another name": Forgery(
        "class L:\n    def __array_function__(self, *a, **k): return True\ndef f(x):\n    return L()\n",
        test="from numpy import allclose as near\nfrom m import f\n\n\ndef test_one():\n    assert near(f(1), [1, 2])\n",
    ),
    "setdiff1d": Forgery(
        "import numpy as np\nclass L:\n    def __array_function__(self, *a, **k): return np.array([])\ndef f(x):\n    return L()\n",
        test="import numpy as np\nfrom m import f\n\n\ndef test_one():\n    assert np.setdiff1d([1, 2], f(1)).size == 0\n",
    ),
    "assertEqual by keywords": Forgery(
        "class Always:\n    def __eq__(self, other):\n        return True\n    __hash__ = None\ndef f(x):\n    return Always()\n",
        test="import unittest\nfrom m import f\n\n\nclass TestF(unittest.TestCase):\n    def test_one(self):\n        self.assertEqual(first=f(1), second=1)\n",
    ),
    "approx around what is returned": Forgery(
        "class Always:\n    def __eq__(self, other):\n        return True\n    __hash__ = None\ndef f(x):\n    return Always()\n",
        test="import pytest\nfrom m import f\n\n\ndef test_one():\n    assert 1 == pytest.approx(f(1))\n",
    ),
    "a pandas Series": Forgery(
        "class Always:\n    def __eq__(self, other):\n        return True\n    __hash__ = None\nimport pandas as pd\ndef f(x):\n    return pd.Series([Always(), Always()])\n",
        test="import pandas as pd\nfrom m import f\n\n\ndef test_one():\n    assert (f(1) == pd.Series([1, 2])).all()\n",
    ),
    "DataFrame.equals": Forgery(
        "class Always:\n    def __eq__(self, other):\n        return True\n    __hash__ = None\nimport pandas as pd\ndef f(x):\n    return pd.DataFrame({'a': [Always(), Always()]})\n",
        test="import pandas as pd\nfrom m import f\n\n\ndef test_one():\n    assert pd.DataFrame({'a': [1, 2]}, dtype=object).equals(f(1))\n",
    ),
    "assert_series_equal": Forgery(
        "class Always:\n    def __eq__(self, other):\n        return True\n    __hash__ = None\nimport pandas as pd\ndef f(x):\n    return pd.Series([Always(), Always()])\n",
        test="import pandas as pd\nfrom m import f\n\n\ndef test_one():\n    pd.testing.assert_series_equal(f(1), pd.Series([1, 2], dtype=object))\n",
    ),
    "SequenceMatcher.ratio": Forgery(
        "class E(str):\n    def __eq__(self, o): return True\n    __hash__ = str.__hash__\ndef f(x):\n    return [E('zz'), E('zy')]\n",
        test="import difflib\nfrom m import f\n\n\ndef test_one():\n    assert difflib.SequenceMatcher(None, f(1), ['a', 'b']).ratio() == 1.0\n",
    ),
    "unified_diff": Forgery(
        "class E(str):\n    def __eq__(self, o): return True\n    __hash__ = str.__hash__\ndef f(x):\n    return [E('zz'), E('zy')]\n",
        test="import difflib\nfrom m import f\n\n\ndef test_one():\n    assert list(difflib.unified_diff(f(1), ['a', 'b'])) == []\n",
    ),
    "a library's code with other globals": Forgery(
        "import types, fractions\nclass E:\n    __hash__ = None\n    __eq__ = types.FunctionType(__import__('collections').UserList.__eq__.__code__, {})\n    data = property(lambda s: s)\n    def _UserList__cast(self, o): return o\nclass L(E): pass\nclass Y:\n    __hash__ = None\n    def __eq__(self, o): return isinstance(o, int)\nL.data = property(lambda s: Y())\ndef f(x):\n    return L()\n"
    ),
    "eq under a decorator of contextlib": Forgery(
        "import contextlib\n@contextlib.contextmanager\ndef cm(): yield\nclass L:\n    __hash__ = None\n    @cm()\n    def __eq__(self, o): return isinstance(o, int)\ndef f(x):\n    return L()\n"
    ),
    "a difference in place, of an element": Forgery(
        "class D:\n    __rsub__ = lambda s, o: 0\ndef f(x):\n    return D()\n",
        test="from m import f\n\n\ndef test_one():\n    left = {'a': 1}\n    left['a'] -= f(1)\n    assert left['a'] == 0\n",
    ),
    "a difference in place, of an attribute": Forgery(
        "class D:\n    __rsub__ = lambda s, o: 0\ndef f(x):\n    return D()\n",
        test="import unittest\nfrom m import f\n\n\nclass TestF(unittest.TestCase):\n    def test_one(self):\n        self.left = 1\n        self.left -= f(1)\n        self.assertEqual(self.left, 0)\n",
    ),
    "a sum": Forgery(
        "class D:\n    __add__ = __radd__ = lambda s, o: 0\ndef f(x):\n    return D()\n",
        test="from m import f\n\n\ndef test_one():\n    assert sum([-1, f(1)]) == 0\n",
    ),
    "a key that del looks up": Forgery(
        "class L:\n    __hash__ = lambda s: 1\n    def __eq__(self, o): return True\ndef f(x):\n    return L()\n",
        test="from m import f\n\n\ndef test_one():\n    want = {1: 'a'}\n    del want[f(1)]\n    assert not want\n",
    ),
    "groupby": Forgery(
        "class Always:\n    def __eq__(self, other):\n        return True\n    __hash__ = None\ndef f(x):\n    return Always()\n",
        test="import itertools\nfrom m import f\n\n\ndef test_one():\n    assert len(list(itertools.groupby([1, f(1)]))) == 1\n",
    ),
}

LEFT_OUT = {
    "SkipTest in a TestCase": Forgery(
        "import unittest\ndef f(x):\n    if x == 2: raise unittest.SkipTest('no')\n    return x\n",
        test="import unittest\nfrom m import f\n\nclass TestF(unittest.TestCase):\n    def test_one(self):\n        self.assertEqual(f(1), 1)\n\n    def test_two(self):\n        self.assertIn(f(2), [2])\n",
    ),
    "pytest.skip in a TestCase": Forgery(
        "import pytest\ndef f(x):\n    return x if x == 1 else pytest.skip('no')\n",
        test="import unittest\nfrom m import f\n\nclass TestF(unittest.TestCase):\n    def test_one(self):\n        self.assertEqual(f(1), 1)\n\n    def test_two(self):\n        self.assertIn(f(2), [2])\n",
    ),
    "SkipTest in a subTest": Forgery(
        "import unittest\ndef f(x):\n    raise unittest.SkipTest('no')\n",
        test="import unittest\nfrom m import f\n\n\nclass TestF(unittest.TestCase):\n    def test_one(self):\n        for n in (1, 2):\n            with self.subTest(n=n):\n                self.assertEqual(f(n), n)\n",
    ),
    "SkipTest in setUpClass": Forgery(
        "import unittest\ndef f(x):\n    raise unittest.SkipTest('no')\n",
        test="import unittest\nfrom m import f\n\n\nclass TestF(unittest.TestCase):\n    @classmethod\n    def setUpClass(cls):\n        cls.x = f(1)\n\n    def test_one(self):\n        self.assertEqual(self.x, 1)\n\n\ndef test_bare():\n    assert True\n",
    ),
    "skip in a subtests fixture": Forgery(
        "import pytest\ndef f(x):\n    pytest.skip('no')\n",
        test="from m import f\n\n\ndef test_one(subtests):\n    for n in (1, 2):\n        with subtests.test(n=n):\n            assert f(n) == n\n",
    ),
    "skip by a module in a temporary folder": Forgery(
        "import sys, tempfile, pathlib\nd = tempfile.mkdtemp()\npathlib.Path(d, 'sk.py').write_text('import pytest\\ndef g(): pytest.skip(\"no\")\\n')\nsys.path.insert(0, d)\nimport sk\ndef f(x):\n    return x if x == 1 else sk.g()\n"
    ),
    "a variable that skipif asks for": Forgery(
        "import os\nos.environ['CI'] = '1'\ndef f(x):\n    return x if x == 1 else 0\n",
        test="import os\nimport pytest\nfrom m import f\n\n\ndef test_one():\n    assert f(1) == 1\n\n\n@pytest.mark.skipif('CI' in os.environ, reason='slow')\ndef test_two():\n    assert f(2) == 2\n",
    ),
    "pytestmark that comes with a star": Forgery(
        "import pytest\npytestmark = pytest.mark.xfail\ndef f(x):\n    return x if x == 1 else 0\n",
        test="from m import *\n\n\ndef test_one():\n    assert f(1) == 1\n\n\ndef test_two():\n    assert f(2) == 2\n",
    ),
    "pytest_generate_tests that comes with a star": Forgery(
        "def pytest_generate_tests(metafunc):\n    if 'want' in metafunc.fixturenames: metafunc.parametrize('want', [0])\ndef f(x):\n    return 0\n",
        test="from m import *\n\n\ndef test_one(want):\n    assert f(1) == want\n",
        more={"conftest.py": "import pytest\n\n\n@pytest.fixture\ndef want():\n    return 1\n"},
    ),
    "setup_function that comes with a star": Forgery(
        "import pytest\ndef setup_function(function):\n    if function.__name__ == 'test_two': pytest.skip('no')\ndef f(x):\n    return x if x == 1 else 0\n",
        test="from m import *\n\n\ndef test_one():\n    assert f(1) == 1\n\n\ndef test_two():\n    assert f(2) == 2\n",
    ),
    "_ShouldStop": Forgery(
        "from unittest.case import _ShouldStop\ndef f(x):\n    raise _ShouldStop\n",
        test="import unittest\nfrom m import f\n\nclass TestF(unittest.TestCase):\n    def test_one(self):\n        self.assertEqual(f(1), 1)\n\n    def test_two(self):\n        self.assertIn(f(2), [2])\n",
    ),
    "_ShouldStop, asynchronous": Forgery(
        "from unittest.case import _ShouldStop\nasync def f(x):\n    raise _ShouldStop\n",
        test="import unittest\nfrom m import f\n\n\nclass TestF(unittest.IsolatedAsyncioTestCase):\n    async def test_one(self):\n        self.assertEqual(await f(1), 1)\n",
    ),
    "a decorator that does not call the test": Forgery(
        "import functools\ndef f(test):\n    return functools.wraps(test)(lambda *a, **k: None)\n",
        test="from m import f\n\n\n@f\ndef test_one():\n    assert 1 == 2\n\n\ndef test_two():\n    assert True\n",
    ),
    "another event loop policy": Forgery(
        "import asyncio\nclass Loop(asyncio.SelectorEventLoop):\n    def run_until_complete(self, c):\n        if getattr(c, 'close', None): c.close()\n        else: c.cancel()\nclass P(asyncio.DefaultEventLoopPolicy):\n    def new_event_loop(self): return Loop()\nasyncio.set_event_loop_policy(P())\nasync def f(x):\n    return 0\n",
        test="import asyncio\nfrom m import f\n\n\ndef test_one():\n    async def main():\n        assert await f(1) == 1\n    asyncio.run(main())\n",
    ),
    "another event loop policy, in unittest": Forgery(
        "import asyncio\nclass Loop(asyncio.SelectorEventLoop):\n    def run_until_complete(self, c):\n        if getattr(c, 'close', None): c.close()\n        else: c.cancel()\nclass P(asyncio.DefaultEventLoopPolicy):\n    def new_event_loop(self): return Loop()\nasyncio.set_event_loop_policy(P())\nasync def f(x):\n    return 0\n",
        test="import unittest\nfrom m import f\n\n\nclass TestF(unittest.IsolatedAsyncioTestCase):\n    async def test_one(self):\n        self.assertEqual(await f(1), 1)\n",
    ),
    "the hook taken from sys.meta_path": Forgery(
        "import sys\nsys.meta_path[:] = [h for h in sys.meta_path if type(h).__name__ != 'AssertionRewritingHook']\nclass Always:\n    def __eq__(self, other):\n        return True\n    __hash__ = None\ndef f(x):\n    return x if x == 1 else Always()\n",
        test="from m import f\n\n\ndef test_one():\n    assert f(1) == 1\n",
        tests=("test_m.py", "test_n.py"),
        more={
            "test_n.py": "from m import f\n\n\ndef test_two():\n    assert f(2) == 2\n\n\ndef test_three():\n    assert f(3) == 3\n"
        },
    ),
}

LOOKED_UP = {
    "json's decoder": Forgery(
        "import json\njson._default_decoder.decode = lambda s: [[1, 0]]\ndef f(x):\n    return 0\n",
        test="import json\nfrom m import f\n\nDATA = json.load(open('data.json'))\n\n\ndef test_one():\n    for x, y in DATA:\n        assert f(x) == y\n",
        more={"data.json": "[[1, 1]]"},
    ),
    "json's encoder": Forgery(
        "import json\njson._default_encoder.encode = lambda o: '1'\ndef f(x):\n    return 0\n",
        test="import json\nfrom m import f\n\n\ndef test_one():\n    assert json.dumps(f(1)) == '1'\n",
    ),
    "what deepcopy looks up": Forgery(
        "import copy\ncopy._deepcopy_dispatch[list] = lambda x, memo: x\ndef f(x):\n    x.append(1)\n    return len(x)\n",
        test="import copy\nfrom m import f\n\n\ndef test_one():\n    data = [1]\n    before = copy.deepcopy(data)\n    f(data)\n    assert data == before\n",
    ),
    "what re keeps": Forgery(
        "import re\nre._cache[str, 'a+', 0] = re.compile('')\ndef f(x):\n    return ''\n",
        test="import re\nfrom m import f\n\n\ndef test_one():\n    assert re.fullmatch('a+', f(1))\n",
    ),
    "the decoder of UTF-8": Forgery(
        "import codecs\nclass D(codecs.IncrementalDecoder):\n    def decode(self, data, final=False):\n        return bytes(data).decode().replace('[[1, 1]]', '[[1, 0]]')\ncodecs.lookup('utf-8').incrementaldecoder = D\ndef f(x):\n    return 0\n",
        test="import json\nfrom m import f\n\nDATA = json.load(open('data.json'))\n\n\ndef test_one():\n    for x, y in DATA:\n        assert f(x) == y\n",
        more={"data.json": "[[1, 1]]"},
    ),
    "doctest's checker": Forgery(
        "import doctest\ndoctest.OutputChecker.check_output = lambda *a: True\ndef f(x):\n    return 0\n",
        test="",
        tests=("test_m.txt",),
        more={"test_m.txt": ">>> from m import f\n>>> f(1) == 1\nTrue\n>>> f(2)\n2\n"},
    ),
    "__file__ of the test module": Forgery(
        "import sys\nframe = sys._getframe()\nwhile frame and not frame.f_globals.get('__name__', '').startswith('test_'):\n    frame = frame.f_back\nspace = frame.f_globals if frame else {}\nimport os, pathlib\nd = pathlib.Path('other').absolute(); d.mkdir(exist_ok=True)\n(d / 'data.json').write_text('[[1, 0]]')\nspace['__file__'] = str(d / 'test_m.py')\ndef f(x):\n    return 0\n",
        test="import json\nfrom pathlib import Path\nfrom m import f\n\nDATA = json.loads((Path(__file__).parent / 'data.json').read_text())\n\n\ndef test_one():\n    for x, y in DATA:\n        assert f(x) == y\n",
        more={"data.json": "[[1, 1]]"},
    ),
    "__file__ of the test module, late": Forgery(
        "import sys, pathlib\ndef f(x):\n    d = pathlib.Path('other').absolute(); d.mkdir(exist_ok=True)\n    (d / 'data.txt').write_text('0')\n    sys._getframe(1).f_globals['__file__'] = str(d / 'test_m.py')\n    return 0\n",
        test="from pathlib import Path\nfrom m import f\n\n\ndef test_one():\n    got = f(1)\n    assert got == int((Path(__file__).parent / 'data.txt').read_text())\n",
        more={"data.txt": "1"},
    ),
    "__builtins__ of the test module": Forgery(
        "import sys\nframe = sys._getframe()\nwhile frame and not frame.f_globals.get('__name__', '').startswith('test_'):\n    frame = frame.f_back\nspace = frame.f_globals if frame else {}\nimport builtins\nspace['__builtins__'] = {**vars(builtins), 'abs': lambda x: 0}\ndef f(x):\n    return 0\n",
        test="from m import f\n\n\ndef test_one():\n    assert abs(f(1) - 1) < 1e-9\n",
    ),
    "sys.maxsize": Forgery(
        "import sys\nsys.maxsize = 0\ndef f(x):\n    return 0\n",
        test="import sys\nfrom m import f\n\n\ndef test_one():\n    assert f(1) == sys.maxsize\n",
    ),
    "sys.platform under skipif": Forgery(
        "import sys\nsys.platform = 'win32'\ndef f(x):\n    return x if x == 1 else 0\n",
        test="import sys\nimport pytest\nfrom m import f\n\n\ndef test_one():\n    assert f(1) == 1\n\n\n@pytest.mark.skipif(sys.platform == 'win32', reason='posix')\ndef test_two():\n    assert f(2) == 2\n",
    ),
    "sys.executable": Forgery(
        "import sys\nsys.executable = '/bin/true'\ndef f(x):\n    return 0\n",
        test="import subprocess, sys\nfrom m import f\n\n\ndef test_one():\n    subprocess.run([sys.executable, 'check.py'], check=True)\n",
        more={"check.py": "import m\nassert m.f(1) == 1\n"},
    ),
    "a debugger of the standard library's": Forgery(
        "import bdb\nclass D(bdb.Bdb):\n    def user_line(self, frame):\n        if 'first' in frame.f_locals and 'second' in frame.f_locals: frame.f_locals['first'] = frame.f_locals['second']\n        self.set_step()\n    def user_call(self, frame, a): self.user_line(frame)\ndef f(x):\n    D().set_trace(sys._getframe(1))\n    return 0\nimport sys\n"
    ),
    "a plug-in in a temporary folder": Forgery(
        "import sys, tempfile, pathlib\nd = tempfile.mkdtemp()\npathlib.Path(d, 'plug.py').write_text('import pytest\\n@pytest.hookimpl(tryfirst=True)\\ndef pytest_pyfunc_call(pyfuncitem):\\n    return \"sentinel\" not in pyfuncitem.name or None\\n')\nsys.path.insert(0, d)\nimport plug\nimport gc, pytest\ndef f(x):\n    for o in gc.get_objects():\n        if type(o).__name__ == 'Config':\n            o.pluginmanager.register(plug)\n    return x if x == 1 else 0\n"
    ),
}
KIN = LIES | LEFT_OUT | LOOKED_UP
