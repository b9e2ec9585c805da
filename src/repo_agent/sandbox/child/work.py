"""From the job to tested code: lay out the files, give up rights, then run pytest, cases or a command.

The job is an open file: one line of JSON, then the bytes of the workspace's files one after another. The line holds
{"scratch", "files": [[path, size, executable]], "key", "limits", "processes", "read", "write", "filters", "reap",
 "calls", "seccomp", "kind": "pytest" | "cases" | "command", "seconds", ...} and what that kind needs.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import IO, Any

from repo_agent.sandbox.child import confine, metadata, reap
from repo_agent.sandbox.child.channel import Channel


def main(job_fd: int, results_fd: int) -> None:
    """Standard output and error lead to the pipe that `supervise` reads; until `ready`, trouble is ours."""
    os.set_inheritable(results_fd, False)
    with open(job_fd, "rb") as file:
        job = json.loads(file.readline())
        work = _lay_out(job, file)
    supervisor = _fork_below(job)
    channel = Channel(results_fd, bytes.fromhex(job.pop("key")))
    os.chdir(work)
    start = _prepared(job, channel, work)
    _give_up_rights(job, supervisor)
    for name in [name for name in sys.modules if name.split(".")[0] == "repo_agent"]:
        del sys.modules[name]
    sys.path[:0] = [work, *(os.path.join(work, folder) for folder in job["pythonpath"])]
    channel.write("ready")
    start()


def _lay_out(job: dict[str, Any], file: IO[bytes]) -> str:
    """The scratch folder: `work`, the workspace; `home`, for HOME and temporary files; an empty pytest.ini above.

    pytest takes the nearest ini file upwards, so a stray one on this machine changes nothing.
    """
    scratch = job["scratch"]
    for name in ("work", "home", "sentinel"):
        os.mkdir(os.path.join(scratch, name))
    open(os.path.join(scratch, "pytest.ini"), "x").close()
    work = os.path.join(scratch, "work")
    for name, size, executable in job.pop("files"):
        path = os.path.join(work, name)
        _make_folders(work, name)
        with open(path, "xb") as target:
            target.write(file.read(size))
        if executable:
            os.chmod(path, 0o755)
    return work


def _make_folders(work: str, name: str) -> None:
    """One after the other: os.makedirs calls itself for each."""
    folder = work
    for part in name.split("/")[:-1]:
        folder = os.path.join(folder, part)
        if not os.path.isdir(folder):
            os.mkdir(folder)


def _prepared(job: dict[str, Any], channel: Channel, work: str) -> Any:
    """What to call once the rights are gone; everything it needs of ours and of pytest is loaded here."""
    sys.dont_write_bytecode = True
    sys.argv[1:] = []
    if job["kind"] == "pytest":
        from repo_agent.sandbox.child.tests import prepare

        return prepare(job, channel, work)
    if job["kind"] == "cases":
        from repo_agent.sandbox.child.cases import prepare as prepare_cases

        return prepare_cases(job, channel, work)
    if job["pythonpath"]:
        os.environ["PYTHONPATH"] = os.pathsep.join(os.path.join(work, folder) for folder in job["pythonpath"])
    return lambda: _execute(job["command"])


def _execute(command: list[str]) -> None:
    """Become the command; 127, as a shell has it, where there is none."""
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", flush=True)
        os._exit(127)


def _fork_below(job: dict[str, Any]) -> socket.socket | None:
    """Go on in a child, where the layer wants a process above it; the way to that one, where it answers calls."""
    if not job["reap"] and not job["calls"]:
        return None
    below, above = socket.socketpair()

    def meanwhile() -> None:
        below.close()
        if job["calls"]:
            names = {number: name for name, number in job["calls"].items()}
            metadata.supervise(above, names, job["scratch"])

    reap.fork_below_reaper(meanwhile)
    above.close()
    return below


def _give_up_rights(job: dict[str, Any], supervisor: socket.socket | None) -> None:
    limits = dict(job["limits"])
    if job["processes"]:
        limits["NPROC"] = job["processes"] + (confine.own_processes() if job["reap"] and os.getuid() else 0)
    if job["read"] or job["filters"]:
        listener = confine.confine(job["read"], job["write"], job["filters"], job["seccomp"] if supervisor else 0)
        if listener >= 0 and supervisor:
            socket.send_fds(supervisor, [b"."], [listener])
            os.close(listener)
    if supervisor:
        supervisor.close()
    confine.confine_more(job["filters"])
    confine.limit(limits)
