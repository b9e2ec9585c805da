"""What a task's tests complain of when they cannot work as they are, and the edit of the suite file that cures it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from repo_agent.tasks.task import Task

IGNORED = "`ignored = true` takes what git ignores too; is {} such a file?"
PLUGIN = "No installed plug-in of pytest is loaded by itself: add `-p {}` to test_cmd"
PLUGINS = {
    "mocker": "pytest_mock",
    "asyncio": "asyncio",
    "asyncio_mode": "asyncio",
    "anyio": "anyio",
    "--cov": "pytest_cov",
    "--timeout": "timeout",
    "timeout": "timeout",
    "benchmark": "benchmark",
    "httpx_mock": "pytest_httpx",
    "-n": "xdist",
    "--dist": "xdist",
}
"""A fixture, option, setting or mark → the plug-in that brings it, by its entry point; any other is NAME."""
_NEEDS_PLUGIN = re.compile(
    r"fixture '(\w+)' not found|unrecognized arguments: (-[\w-]+)|Unknown config option: (\w+)|"
    r"'(\w+)' not found in `markers`|(async) def functions are not natively supported"
)
_NO_MODULE = re.compile(r"No module named '([\w.]+)'")
_NO_NAME = re.compile(r"cannot import name '(\w+)' from '([\w.]+)'")
_NO_FILE = re.compile(r"FileNotFoundError: .*No such file or directory: '([^/'][^']*)'")


def cures(complaints: Iterable[tuple[Task, str]]) -> list[dict[str, str]]:
    """Each cure once, with the tasks that it is for: {"cure", "tasks"}."""
    found = dict[str, dict[str, None]]()
    for task, output in complaints:
        for cure in _cures(task, output):
            found.setdefault(cure, {})[task.id] = None
    return [{"cure": cure, "tasks": ", ".join(ids)} for cure, ids in found.items()]


def _cures(task: Task, output: str) -> Iterable[str]:
    for match in _NEEDS_PLUGIN.finditer(output):
        wanted = next(filter(None, match.groups()))
        name = PLUGINS.get(wanted, "asyncio" if wanted == "async" else "NAME")
        yield PLUGIN.format(name) + (f", NAME being the plug-in that brings {wanted}" if name == "NAME" else "")
    for match in _NO_MODULE.finditer(output):
        yield _for_module(task, match[1])
    for match in _NO_NAME.finditer(output):
        if _holds(task, match[2].split(".")[0]):
            yield IGNORED.format(f"{match[2].replace('.', '/')}/{match[1]}.py")
    for match in _NO_FILE.finditer(output):
        if match[1] not in task.files:
            yield IGNORED.format(match[1])
    if "refused by the sandbox" in output:
        yield "What the sandbox refuses cannot pass here: leave such tests out, as with `--deselect` in test_cmd"


def _for_module(task: Task, module: str) -> str:
    """A module that is not there: of the repository, or of the interpreter."""
    top = module.split(".")[0]
    if _holds(task, top):
        return IGNORED.format(module.replace(".", "/") + ".py")
    folders = sorted({name.split(f"/{top}/")[0] for name in task.files if f"/{top}/" in name})
    if folders:
        return f'`pythonpath = ["{folders[0]}"]` puts the folder that holds {top} on the path of imports'
    return f"`python` must name the interpreter of an environment that has {top}"


def _holds(task: Task, top: str) -> bool:
    """Whether the workspace has a module or package of this name where imports look."""
    places = ("", *(f"{folder}/" for folder in task.pythonpath if folder != "."))
    return any(name == f"{at}{top}.py" or name.startswith(f"{at}{top}/") for name in task.files for at in places)
