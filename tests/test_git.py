"""A stranger's repository, suite file or patch runs nothing on this machine when a suite is loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_cli import run as cli

from repo_agent.errors import UserError
from repo_agent.tasks import load_suite
from repo_agent.tasks.git import known_to_git

WHO = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "protocol.file.allow=always")


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *WHO, *words], check=True, capture_output=True, text=True).stdout


def wants_an_object(folder: Path, **config: str) -> Path:
    """A repository that git cannot list without fetching an object from the remote `origin`."""
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / "m.py").write_text("x = 1\n")
    (folder / ".gitignore").write_text("y\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "a")
    blob = git(folder, "rev-parse", ":.gitignore").strip()
    git(folder, "update-index", "--skip-worktree", ".gitignore")
    (folder / ".gitignore").unlink()
    (folder / ".git/objects" / blob[:2] / blob[2:]).unlink()
    (folder / "notes.txt").write_text("n\n")  # untracked, so that .gitignore is asked for
    promisor = {"core.repositoryformatversion": "1", "extensions.partialClone": "origin",
                "remote.origin.promisor": "true", "remote.origin.url": str(folder)}  # fmt: skip
    for key, value in {**promisor, **config}.items():
        git(folder, "config", key, value)
    return folder


def suite(folder: Path, repo: str, **task: object) -> str:
    record = {"tasks": [{"id": "t", "goal": "g", "repo": repo, **task}]}
    (folder / "suite.json").write_text(json.dumps(record))
    return str(folder / "suite.json")


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """What a command of the repository would make."""
    return tmp_path / "ran"


def command(mark: Path) -> str:
    return f"touch {mark}; false"


URLS = {
    "a folder": {},
    "a file URL": {"remote.origin.url": "file:///tmp"},
    "a helper": {"remote.origin.url": "ext::sh -c touch% {mark}"},
    "a helper allowed": {"remote.origin.url": "ext::sh -c touch% {mark}", "protocol.ext.allow": "always"},
    "ssh": {"remote.origin.url": "ssh://nowhere.invalid/x", "core.sshCommand": "touch {mark}; false"},
    "scp": {"remote.origin.url": "nowhere.invalid:x", "core.sshCommand": "touch {mark}; false"},
    "the git protocol": {"remote.origin.url": "git://nowhere.invalid/x", "core.gitProxy": "touch {mark}; false"},
    "http": {"remote.origin.url": "http://127.0.0.1:9/x", "credential.helper": "!touch {mark}"},
    "another name": {"url.ext::sh -c touch% {mark} .insteadOf": "x:", "remote.origin.url": "x:",
                     "protocol.allow": "always"},
}  # fmt: skip


@pytest.mark.parametrize("how", URLS)
def test_a_missing_object_is_not_fetched(tmp_path: Path, mark: Path, how: str, capsys: pytest.CaptureFixture) -> None:
    config = {key.format(mark=mark): value.format(mark=mark) for key, value in URLS[how].items()}
    repo = wants_an_object(tmp_path / "repo", **{"remote.origin.uploadpack": command(mark), **config})
    assert cli(capsys, "suite", "show", suite(tmp_path, "repo"))[0] == 0
    assert set(load_suite(suite(tmp_path, "repo")).tasks[0].files) == {"m.py", "notes.txt"}
    assert not mark.exists() and known_to_git(repo)


def test_a_repository_that_a_plain_clone_brings_is_not_taken_for_one(
    tmp_path: Path, mark: Path, capsys: pytest.CaptureFixture
) -> None:
    source = wants_an_object(tmp_path / "one", **{"remote.origin.uploadpack": command(mark)})
    outer = tmp_path / "outer"
    (outer / "inner").mkdir(parents=True)
    git(outer, "init", "-q")
    for name in ("HEAD", "config", "index", "objects", "refs"):
        place = source / ".git" / name
        (shutil.copytree if place.is_dir() else shutil.copy)(place, outer / "inner" / name)
    for name in ("m.py", "notes.txt", "refs/heads/keep", "refs/tags/keep", "objects/keep"):
        (outer / "inner" / name).touch()
    git(outer / "inner", "config", "--file", "config", "core.bare", "false")
    git(outer / "inner", "config", "--file", "config", "core.worktree", ".")
    git(outer, "add", "-A", "-f", ".")
    git(outer, "commit", "-qm", "b")
    git(tmp_path, "clone", "-q", str(outer), "clone")
    code, _, err = cli(capsys, "suite", "show", suite(tmp_path, "clone/inner"))
    assert not mark.exists()
    assert (code, err.count("\n")) == (2, 1) and "cannot use bare repository" in err and "ignored = true" in err
    assert len(load_suite(suite(tmp_path, "clone/inner", ignored=True)).tasks[0].files) > 5
    assert "inner/m.py" in load_suite(suite(tmp_path, "clone")).tasks[0].files


CONFIGURED = {
    "monitor": {"core.fsmonitor": "touch {mark}"},
    "hooks": {"core.hooksPath": "hooks"},
    "pager": {"core.pager": "touch {mark}", "pager.ls-files": "true"},
    "alias": {"alias.ls-files": "!touch {mark}", "alias.rev-parse": "!touch {mark}"},
    "filter": {"filter.x.clean": "touch {mark}; cat", "filter.x.smudge": "touch {mark}; cat"},
    "textconv": {"diff.x.textconv": "touch {mark}", "diff.x.command": "touch {mark}", "diff.external": "touch {mark}"},
    "include": {"include.path": "../more"},
    "includeIf": {"includeIf.gitdir:**.path": "../more"},
    "refs": {"core.alternateRefsCommand": "touch {mark}"},
    "trace": {"trace2.eventTarget": "{mark}", "trace2.normalTarget": "{mark}"},
    "editors": {"core.editor": "touch {mark}", "core.askPass": "touch {mark}", "gpg.program": "touch {mark}"},
}


@pytest.mark.parametrize("what", CONFIGURED)
def test_nothing_that_a_repository_configures_is_run(tmp_path: Path, mark: Path, what: str) -> None:
    config = {key: value.format(mark=mark) for key, value in CONFIGURED[what].items()}
    repo = wants_an_object(tmp_path / "repo", **config)
    (repo / ".gitattributes").write_text("* filter=x diff=x\n")
    (repo / "more").write_text(
        f'[remote "origin"]\n\tuploadpack = "{command(mark)}"\n[core]\n\tfsmonitor = touch {mark}\n'
    )
    (repo / "hooks").mkdir()
    for place in (repo / "hooks", repo / ".git/hooks"):
        for hook in (
            "post-index-change",
            "reference-transaction",
            "fsmonitor-watchman",
            "pre-auto-gc",
            "post-checkout",
        ):
            (place / hook).write_text(f"#!/bin/sh\ntouch {mark}\n")
            (place / hook).chmod(0o755)
    os.utime(repo / "m.py", (1, 1))  # the index needs a refresh
    assert "m.py" in load_suite(suite(tmp_path, "repo")).tasks[0].files
    assert not mark.exists()


def test_a_repository_inside_and_one_elsewhere_run_nothing_either(tmp_path: Path, mark: Path) -> None:
    """A submodule, a `.git` file that leads elsewhere, a common folder, borrowed objects."""
    bad = wants_an_object(tmp_path / "bad", **{"remote.origin.uploadpack": command(mark)})
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    shutil.copytree(bad, outer / "sub")
    git(outer, "add", "sub")
    assert {"sub/m.py", "sub/notes.txt"} <= (known_to_git(outer) or set())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "notes.txt").touch()
    (elsewhere / ".git").write_text(f"gitdir: {bad / '.git'}\n")
    assert "notes.txt" in (known_to_git(elsewhere) or set())
    worktree = tmp_path / "worktree"
    worktree.mkdir()
    (worktree / "notes.txt").touch()
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(bad / ".git/index", own / "index")
    (own / "HEAD").write_text("ref: refs/heads/x\n")
    (own / "commondir").write_text(f"{bad / '.git'}\n")
    (worktree / ".git").write_text(f"gitdir: {own}\n")
    assert "notes.txt" in (known_to_git(worktree) or set())
    borrower = tmp_path / "borrower"
    shutil.copytree(bad, borrower)
    (borrower / ".git/objects/info/alternates").write_text(f"{bad / '.git/objects'}\n")
    assert known_to_git(borrower)
    assert not mark.exists()


@pytest.mark.parametrize("prefix", [".git/", ""])
def test_a_patch_is_put_on_outside_of_any_repository(tmp_path: Path, mark: Path, prefix: str) -> None:
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/m.py").write_text("x = 1\n")
    run = f"\"sh -c 'touch {mark}; cat'\""
    config = f'[core]\n\tbare = false\n\tworktree = {".." if prefix else "."}\n[filter "x"]\n\tclean = {run}\n'
    bug = {f"{prefix}HEAD": "ref: refs/heads/m\n", f"{prefix}config": config, f"{prefix}objects/k": "k",
           f"{prefix}refs/k": "k", ".gitattributes": "* filter=x\n", "m.py": "x = 1\ny = 1\n"}  # fmt: skip
    names = " ".join(bug)
    (tmp_path / "fix.patch").write_text(f"{names}\n--- a/m.py\n+++ b/m.py\n@@ -1,2 +1,2 @@\n-x = 1\n+x = 2\n y = 1\n")
    (task,) = load_suite(suite(tmp_path, "repo", bug=bug, fix_patch="fix.patch")).tasks
    assert (task.fix or {})["m.py"] == "x = 2\ny = 1\n"
    assert not mark.exists()


def test_a_script_for_ed_is_no_patch(tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ed").write_text(f"#!/bin/sh\n/usr/bin/touch {mark}\n")
    (tmp_path / "ed").chmod(0o755)
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo/m.py").write_text("x = 1\n")
    (tmp_path / "fix.patch").write_text("--- a/m.py\n+++ b/m.py\n1c\nx = 2\n.\n")
    for path in (f"{tmp_path}:{os.environ['PATH']}", str(tmp_path)):  # with and without git
        monkeypatch.setenv("PATH", path)
        with pytest.raises(UserError, match=r"fix\.patch"):
            load_suite(suite(tmp_path, "repo", fix_patch="fix.patch", ignored=True))
        assert not mark.exists()


def test_links_on_the_way_to_a_repository_inside_do_not_lead_in_circles(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "s").mkdir()
    (tmp_path / "s/q").symlink_to("..")
    (tmp_path / "s/m.py").touch()
    git(tmp_path, "update-index", "--add", "--cacheinfo", f"100644,{'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'},s/q/s")
    assert "s/m.py" in (known_to_git(tmp_path) or set())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_repository_of_another_user_is_not_read(tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "m.py").touch()
    git(repo, "init", "-q")
    for path in (repo, repo / ".git"):
        os.chown(path, 12345, 12345)
    with pytest.raises(UserError, match=r"dubious ownership.*safe\.directory"):
        load_suite(suite(tmp_path, "repo"))
    assert load_suite(suite(tmp_path, "repo", ignored=True)).tasks
