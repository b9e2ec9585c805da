"""The oracle: a teacher that needs no model. It plays a task's known fix through the real loop.

Seeded variety without padding: it lists a folder, greps, or both, sometimes reads the test, chooses its limits, and
now and then makes one slip that the loop answers with an error and that it corrects in the next turn. It uses no path
and no name that it has not been told or shown.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from repo_agent.agent.spec import AgentSpec
from repo_agent.errors import UserError
from repo_agent.messages import ToolCall
from repo_agent.models.scripted import Scripted
from repo_agent.protocols import Protocol
from repo_agent.tasks.task import Task, as_text
from repo_agent.tools.files import default_registry

SLIP_RATE = 0.3
"""The share of rollouts that hold a slip."""
READ_TEST_RATE = 0.25
FOLDER_SHARE = 0.6
"""Of the slips on a read_file: the right file name in no folder, or in another one."""


def oracle(task: Task, protocol: Protocol, seed: int) -> Scripted:
    """The teacher for one rollout. Raises UserError for a task without a known fix."""
    rng = random.Random(f"oracle {seed}")
    calls = plan(task, rng)
    replies = [protocol.render_call(call) for call in calls]
    if rng.random() < SLIP_RATE:
        at = rng.randrange(len(calls))
        replies.insert(at, slip(calls[at], _folders(task), protocol, rng))
    return Scripted([*replies, protocol.render_final(summary(task))], name="oracle")


def playable(spec: AgentSpec, tasks: Sequence[Task]) -> None:
    """Raise UserError where the oracle cannot play honestly: a task has no known fix, or a file to be rewritten that
    read_file would not show as a whole; or these tools lack one that it plays, or take other arguments for it."""
    without = [task.id for task in tasks if task.fix is None]
    if without:
        what = f"the oracle needs known fixes; there is none for {', '.join(without)}"
        raise UserError(what, "--model oracle", "Give them fixes or a suite file of their own, or take another teacher")
    hidden = [task.id for task in tasks if longest_rewritten(task) > spec.limits.read_chars]
    if hidden:
        what = (
            f"the oracle would write what it was not shown: in {', '.join(hidden[:5])}{' …' if hidden[5:] else ''} a "
        )
        what += f"file of the fix is longer than the {spec.limits.read_chars:,} characters that read_file shows"
        raise UserError(what, "--model oracle", "Raise --read-chars, or leave these tasks out of the suite")
    own = {tool.name: tool.parameters for tool in spec.registry.specs.values()}
    lacking = [ours.name for ours in default_registry().specs.values() if own.get(ours.name) != ours.parameters]
    if lacking:
        what = (
            f"the oracle plays a fix with our four tools; here {', '.join(lacking)} is missing or takes other arguments"
        )
        raise UserError(what, "--tools", "Take a model as the teacher, or list our tools among yours")


def longest_rewritten(task: Task) -> int:
    """Characters of the longest file that the fix changes, as it is before."""
    return max((len(as_text(task.files[path])) for path in task.fix or () if path in task.files), default=0)


def plan(task: Task, rng: random.Random) -> list[ToolCall]:
    """The calls of one clean rollout: look, perhaps read the test, then read and write each file of the fix."""
    if not task.fix:
        raise UserError("the oracle needs a task with a known fix", task.id, "Use another teacher for this suite")
    calls, seen = _look(task, rng)
    tests = [path for path in task.tests if path in seen and path in task.files]
    if tests and rng.random() < READ_TEST_RATE:
        calls.append(_read(task, rng.choice(tests), rng))
    for path, text in sorted(task.fix.items()):
        if path in task.files:
            calls.append(_read(task, path, rng))
        calls.append(ToolCall("write_file", {"rel_path": path, "content": text}))
    return calls


def summary(task: Task) -> str:
    """What the final says."""
    return f"Fixed {', '.join(sorted(task.fix or {}))}."


def slip(call: ToolCall, folders: list[str], protocol: Protocol, rng: random.Random) -> str:
    """A malformed or failing version of a call, as the assistant's text; the loop answers it with an error."""
    args = dict(call.args)
    if call.name == "read_file" and "/" in args["rel_path"] and rng.random() < FOLDER_SHARE:
        path = PurePosixPath(args["rel_path"])
        wrong = PurePosixPath(
            rng.choice([".", *(folder for folder in folders if folder != str(path.parent))]), path.name
        )
        return protocol.render_call(ToolCall(call.name, {**args, "rel_path": str(wrong)}))
    kind = rng.choice(("missing", "missing", "type", "prose"))
    numbers = [name for name, value in args.items() if isinstance(value, int)]
    if kind == "type" and numbers:
        return protocol.render_call(ToolCall(call.name, {**args, numbers[0]: str(args[numbers[0]])}))
    if kind == "prose" and protocol.name != "native":
        return f"{rng.choice(PROSE)} {protocol.render_call(call)}"
    args.pop(list(args)[-1])
    return protocol.render_call(ToolCall(call.name, args))


def _folders(task: Task) -> list[str]:
    return sorted({str(PurePosixPath(path).parent) for path in task.files} - {"."})


PROSE = ("I will do this now.", "Next step:", "Let me look.", "Sure!")


def _look(task: Task, rng: random.Random) -> tuple[list[ToolCall], set[str]]:
    """The opening calls, and the paths that the model has been told or shown after them."""
    named = {path for path in task.files if path in task.goal}
    targets = set(task.fix or {}) & set(task.files)
    functions = _functions(task, targets - named or targets)
    ways = ["list", "list", "list+grep"] if functions else ["list"]
    ways += ["grep"] if functions else []
    ways += ["nothing"] if targets <= named else []
    way = rng.choice(ways)
    calls = []
    if "list" in way:
        calls.append(_list(named, targets - named, rng))
    if "grep" in way:
        calls.append(_grep(rng.choice(functions), rng))
    listed = {path for path in task.files if "list" in way and _under(path, calls[0].args["rel_dir"])}
    return calls, named | listed


def _list(named: set[str], sought: set[str], rng: random.Random) -> ToolCall:
    """List the root, or a folder that the goal names and that holds all that is sought."""
    folders = sorted({str(PurePosixPath(path).parent) for path in named} - {"."})
    folders = [folder for folder in folders if all(_under(path, folder) for path in sought)]
    rel_dir = rng.choice([".", ".", *folders])
    return ToolCall("list_files", {"rel_dir": rel_dir, "max_files": rng.choice((20, 50, 100))})


def _grep(function: str, rng: random.Random) -> ToolCall:
    pattern = rng.choice((function, f"def {function}"))
    return ToolCall("grep", {"pattern": pattern, "rel_dir": ".", "max_hits": rng.choice((5, 10, 20))})


def _read(task: Task, path: str, rng: random.Random) -> ToolCall:
    length = len(as_text(task.files[path]))
    fitting = [size for size in (1000, 2000, 4000) if size >= length]
    return ToolCall("read_file", {"rel_path": path, "max_chars": rng.choice(fitting or [max(16_000, length)])})


def _under(path: str, rel_dir: Any) -> bool:
    return rel_dir == "." or path.startswith(f"{rel_dir}/")


def _functions(task: Task, files: set[str]) -> list[str]:
    """Functions that the goal names and that every one of `files` defines: a grep for one shows them all."""
    defined = [set(re.findall(r"^def (\w+)", as_text(task.files[path]), re.MULTILINE)) for path in files]
    common = set.intersection(*defined) if defined else set()
    return sorted(name for name in common if re.search(rf"\b{re.escape(name)}\b", task.goal))
