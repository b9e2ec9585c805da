"""Which layer keeps the tested code apart from this machine. Probed once; every trace records its name.

namespaces     user, process, network and mount namespaces by unshare(1): every process of the tests dies with the
               first one, the host's processes (and their environment) are out of sight, and no network is there.
               Files are not protected beyond the file permissions of the user who runs this.
unsafe-local   limits and a process group alone; for machines that offer no namespaces, on the user's word. A process
               that leaves the group outlives the tests.

Not covered by either: how many processes the tests start, their memory taken together, and reading the user's files.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

from repo_agent.errors import UserError

UNSHARE = ("--user", "--map-current-user", "--pid", "--fork", "--kill-child", "--net", "--mount-proc")
PROBE_SECONDS = 10.0
PROBE = """
import os, socket, sys
try:
    socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=1).close()
except OSError:
    print("contained" if os.getpid() == 1 else "same processes")
"""


@dataclass(frozen=True, slots=True)
class Isolation:
    """A layer's name, and the words that a command is prefixed with to run inside it."""

    name: str
    prefix: tuple[str, ...] = ()


def probe(unsafe_local: bool = False) -> Isolation:
    """The best layer that works here.

    Raises UserError where there is none, unless `unsafe_local` allows limits and a process group alone.
    """
    namespaces = _namespaces()
    if namespaces:
        return namespaces
    if unsafe_local:
        return Isolation("unsafe-local")
    raise UserError(
        "this machine gives no user namespaces, so code that a model wrote cannot be contained",
        "sandbox",
        "Allow them (kernel.unprivileged_userns_clone, util-linux' unshare), or accept the risk with --unsafe-local",
    )


@cache
def _namespaces() -> Isolation | None:
    """Try it: inside, the process must be number 1, and a listener on the host's loopback out of reach."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return None
    prefix = (unshare, *UNSHARE, "--")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [*prefix, sys.executable, "-I", "-S", "-c", PROBE, str(listener.getsockname()[1])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
    return Isolation("namespaces", prefix) if done.stdout.strip() == "contained" else None
