"""The program that `searchers` starts: compiles patterns and searches files, within limits that the kernel keeps.

    python -I search_child.py FOLDER_OF_THE_REGEX_PACKAGE MEMORY_BYTES

It says `ready`. A request is a line of JSON on standard input: {"pattern", "files": [[name, path], …], "limit",
"file_bytes", "hit_chars", "seconds"}. The answer is the line `compiled` (not where the pattern does not compile), then
one of JSON: {"hits"} or {"code", "message"}, and {"last": true} where the process ends with it. Over its processor time
it is killed by a signal that nothing in it can hold up.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from typing import Any

_WORN = 0.5
"""The process ends once it still holds this share of its memory, so that the next pattern finds most of it."""


def main() -> None:
    sys.path.append(sys.argv[1])
    import regex

    memory = int(sys.argv[2])
    os.nice(5)  # the process that waits for an answer goes first
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # a system without this limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    _say("ready")
    last = False
    while not last and (line := sys.stdin.buffer.readline()):
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        answer = _answer(regex, request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        last = _size() > _WORN * memory
        _say(json.dumps(answer | {"last": last}))


def _answer(regex: Any, request: dict[str, Any]) -> dict[str, Any]:
    try:
        compiled = regex.compile(request["pattern"], cache_pattern=False)
    except (regex.error, RecursionError, OverflowError, ValueError, LookupError, TypeError, AttributeError) as error:
        return {"code": "bad_regex", "message": f"not a regular expression: {str(error)[:200]}"}
    except MemoryError:
        return {"code": "bad_regex", "message": "the pattern takes too much memory"}
    _say("compiled")
    hits: list[str] = []
    try:
        for name, path in request["files"]:
            for number, text in enumerate(_lines(path, request["file_bytes"]), 1):
                if len(hits) >= request["limit"]:
                    return {"hits": hits}
                if compiled.search(text):
                    hits.append(f"{name}:{number}:{text[: request['hit_chars']]}")
    except MemoryError:
        return {"code": "out_of_memory", "message": "the search took too much memory"}
    except OSError:
        return {"code": "not_readable", "message": f"cannot read {name}"}
    return {"hits": hits}


def _lines(path: str, size: int) -> list[str]:
    # Never waits for a pipe that took the place of a file.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        text = file.read(size).decode(errors="replace")
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []


def _size() -> int:
    """Bytes of address space in use; 0 where the system does not tell."""
    with contextlib.suppress(OSError), open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
