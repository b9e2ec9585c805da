"""The process that `supervise` starts: `python main.py JOB_FD RESULTS_FD`.

It runs under whatever interpreter the task names, so this package is not importable by name. A stand-in for its
parents lets the files beside this one import each other; `work` takes it away before any tested code loads.
"""

from __future__ import annotations

import os
import sys
import types

ROOM = "repo_agent.sandbox.child"


def load() -> types.ModuleType:
    """The module `ROOM.work`."""
    names = [ROOM.rsplit(".", level)[0] for level in (2, 1)] + [ROOM]
    for name in names:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    sys.modules[ROOM].__path__ = [os.path.dirname(os.path.abspath(__file__))]
    from repo_agent.sandbox.child import work

    return work


if __name__ == "__main__":
    load().main(int(sys.argv[1]), int(sys.argv[2]))
