"""What is started in a sandbox: `python main.py JOB_FD RESULTS_FD` for one run, `python main.py CONTROL_FD` for many.

It runs under whatever interpreter the task names, so this package is not importable by name. A stand-in for its
parents lets the files beside this one import each other; `work` takes it away before any tested code loads.
"""

from __future__ import annotations

import os
import sys
import types

ROOM = "repo_agent.sandbox.child"


def load() -> None:
    """Let `ROOM` be imported."""
    names = [ROOM.rsplit(".", level)[0] for level in (2, 1)] + [ROOM]
    for name in names:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    sys.modules[ROOM].__path__ = [os.path.dirname(os.path.abspath(__file__))]


def main(fds: list[int]) -> None:
    load()
    if len(fds) == 1:
        from repo_agent.sandbox.child import warm

        warm.serve(*fds)
    from repo_agent.sandbox.child import work

    work.main(*fds)


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]])
