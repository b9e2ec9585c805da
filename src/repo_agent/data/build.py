"""Traces in, a new dataset directory out: a trace at a time, in one process or several."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.data.audit import audit_page
from repo_agent.data.card import card
from repo_agent.data.dataset import (
    DROPPED,
    FORMAT,
    FUNNEL,
    RECORD,
    TRAJECTORIES,
    Dataset,
    line_of,
    record_text,
    sha256_of,
)
from repo_agent.data.export import check_exports, export
from repo_agent.data.gates import FIRST, Funnel, GateSettings, funnel_of
from repo_agent.data.pool import OnProgress, worked
from repo_agent.data.tally import Tally
from repo_agent.data.tokens import refuse_what_differs
from repo_agent.data.work import Job, Part
from repo_agent.errors import NothingLeft, UserError
from repo_agent.files import new_directory
from repo_agent.messages import text_hash
from repo_agent.protocols.contract import Contract
from repo_agent.traces.read import find_traces, run_folder
from repo_agent.traces.splits import RecordedSplit, TaskSplit, agreed_split, has_split, held_out_now

_FOLDERS = re.compile(r"(?<![\w/.])(?:~|\.\.?)?/(?!/)[^\s+@=]*/")
"""The folders of an absolute path, or of one that begins with ~ or a dot; no part of a URL or of a hub name."""
_PROMPTS_SHOWN = 20
NO_SPLIT = "Give --suite, or --hold-out to hold tasks out now, or --no-split to train on everything"


@dataclass(frozen=True)
class BuildOptions:
    """What `repo-agent build` takes; see its help."""

    paths: Sequence[Path]
    settings: GateSettings = field(default_factory=GateSettings)
    suite_split: TaskSplit | None = None
    no_split: bool = False
    hold_out: str | None = None
    """How many groups of recorded tasks to hold out, or a share of them; see `traces.splits`."""
    tools: str | None = None
    rerender: bool = False
    rewrite_home: bool = False
    tokenizer: str = "tiny"
    exports: Sequence[str] = ()
    jobs: int = 1
    near: Mapping[str, Any] | None = None
    """What was found of near-duplicate programs across the split; None: not checked, and the card says so."""


def build(
    options: BuildOptions, out: Path | None, on_progress: OnProgress | None = None, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Write the dataset `out`, or with None only count; returns the counts.

    Raises UserError for bad input, an `out` that exists, a prompt that renders otherwise than it ran, or when no row is
    left (the message holds the funnel); then nothing is written.
    """
    if out is not None and out.exists():
        raise UserError("already exists", str(out), "Choose another --out, or remove it")
    check_exports(options.exports)
    traces = find_traces(options.paths)
    check_names(traces)
    split = _split(options, traces)
    job = Job(
        settings=options.settings,
        train=None if split is None else frozenset(split.train),
        tokenizer=options.tokenizer,
        tools=options.tools,
        rerender=options.rerender,
        rewrite_home=options.rewrite_home,
    )
    with closing(_Piles(out)) as piles:
        problems = piles.fill(worked(traces, job, options.jobs, on_progress))
        made = _Made(options, split, piles, problems)
        if out is None:
            return made.counts()
        made.refuse_what_is_wrong()
        with new_directory(out) as folder:
            made.write(folder, say)
    return made.counts()


def _split(options: BuildOptions, traces: Sequence[Path]) -> RecordedSplit | None:
    """Which tasks may be trained on; None: all of them."""
    if options.hold_out and (options.no_split or options.suite_split):
        raise UserError("there is a split already", "--hold-out", "Leave out --suite and --no-split, or this")
    if options.no_split or not traces:
        return None
    if options.hold_out:
        known = [folder for folder in {run_folder(trace) for trace in traces} if folder and has_split(folder)]
        if known:
            raise UserError("records a split already", str(known[0]), "Leave out --hold-out")
        return held_out_now(traces, options.hold_out)
    return agreed_split(traces, options.suite_split, NO_SPLIT)


class _Piles:
    """The rows and dropped turns of each contract, in files beside the dataset until it is known which one wins."""

    def __init__(self, out: Path | None) -> None:
        near = next(folder for folder in out.absolute().parents if folder.is_dir()) if out else None
        self._folder = tempfile.TemporaryDirectory(prefix=".build-", dir=near)
        self._writes = out is not None
        self.parts: dict[str, Part] = {}
        self._files: dict[tuple[str, str], IO[bytes]] = {}

    def fill(self, results: Iterator[Any]) -> list[str]:
        """Take what the workers made; returns the problems that they met."""
        problems: list[str] = []
        for done in results:
            problems += done.problems
            for key, part in done.parts.items():
                self.parts.setdefault(key, Part(part.contract)).tally.add(part.tally)
                if self._writes:
                    self.file(key, TRAJECTORIES).writelines(part.rows)
                    self.file(key, DROPPED).writelines(part.dropped)
        return problems

    @property
    def winner(self) -> Part | None:
        """The part of the contract that most turns have."""
        return max(self.parts.values(), key=lambda part: (part.tally.candidates, part.contract.hash), default=None)

    def file(self, key: str, name: str) -> IO[bytes]:
        if (key, name) not in self._files:
            self._files[key, name] = (Path(self._folder.name) / f"{key}.{name}").open("w+b")
        return self._files[key, name]

    def lines(self, key: str, name: str) -> Iterator[bytes]:
        file = self.file(key, name)
        file.seek(0)
        yield from file

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._folder.cleanup()


class _Made:
    """The whole of a build: the winning contract's part, and the turns of the others."""

    def __init__(self, options: BuildOptions, split: Any, piles: _Piles, problems: list[str]) -> None:
        self._options, self._split, self._piles, self._problems = options, split, piles, problems
        self._part = piles.winner or Part(Contract([], "json"))
        others = [part for part in piles.parts.values() if part is not self._part]
        turns = Counter(self._part.tally.turns)
        for part in others:
            for (_, task), count in part.tally.turns.items():
                turns[FIRST, task] += count
        self.funnel: Funnel = funnel_of(turns, options.settings)

    @property
    def _tally(self) -> Tally:
        return self._part.tally

    def counts(self) -> dict[str, Any]:
        """The figures of the command's JSON."""
        near = self._options.near
        pairs = near["pairs"] if near else None
        return {
            "candidates": self.funnel.candidates,
            "funnel": self.funnel.totals(),
            "rows": self.funnel.rows,
            **{
                name: self._tally.figures[name]
                for name in ("trajectories", "merged_rows", "trained_tokens", "tokens_steps", "tokens_merged")
            },
            "recoveries": self._tally.figures["recoveries"],
            "finals": self._tally.figures["finals"],
            "lost_tokens": dict(self._tally.lost),
            "prompts": self._tally.proof.to_dict(),
            "homes": self._tally.figures["homes"],
            "near_duplicates": None if pairs is None else len(pairs),
            "problems": self._problems,
        }

    def refuse_what_is_wrong(self) -> None:
        """Raise UserError where there is no row, or where one differs from what ran."""
        if not self._piles.parts:
            places = ", ".join(map(str, self._options.paths))
            raise UserError("no trace with a whole line in it", places, "Give run directories or folders of traces")
        if not self.funnel.rows:
            what = f"all {self.funnel.candidates} candidate rows were filtered out: {self.funnel.line()}"
            remedy = "Give runs whose rollouts pass, or set the gates (--gate, --dry-run)"
            if self.funnel.totals().get("split") == self.funnel.candidates:
                remedy = "All are of held-out tasks: give runs of `eval --split train`"
            raise NothingLeft(what, "build", remedy)
        refuse_what_differs(self._tally.proof, "build")

    def write(self, folder: Path, say: Callable[[str], None]) -> None:
        """Fill the dataset's folder."""
        key, tally = self._part.contract.hash, self._tally
        with (folder / TRAJECTORIES).open("wb") as file:
            file.writelines(self._piles.lines(key, TRAJECTORIES))
        with (folder / DROPPED).open("wb") as file:
            file.writelines(self._piles.lines(key, DROPPED))
            file.writelines(self._of_other_contracts())
        tokenizer = load_tokenizer(self._options.tokenizer)
        renderer = Renderer(tokenizer, self._part.contract.printed_tools)
        record = self._record(renderer)
        (folder / RECORD).write_text(record_text(record), encoding="utf-8")
        dataset = Dataset(folder, record)
        names = export(dataset, renderer, self._options.exports, say)
        (folder / FUNNEL).write_text(record_text(self.funnel.to_dict()), encoding="utf-8")
        record["files"] = {name: sha256_of(folder / name) for name in (TRAJECTORIES, DROPPED, FUNNEL, *names)}
        (folder / RECORD).write_text(record_text(record), encoding="utf-8")
        (folder / "card.md").write_text(card(record, tally, self.funnel), encoding="utf-8")
        (folder / "audit.html").write_text(audit_page(dataset, renderer), encoding="utf-8")

    def _of_other_contracts(self) -> Iterator[bytes]:
        """The turns of every other contract, each dropped by the first gate."""
        for key, part in self._piles.parts.items():
            if part is self._part:
                continue
            why = f"made for the contract {key}, this dataset is for {self._part.contract.hash}"
            for line in self._piles.lines(key, DROPPED):
                yield line_of({**json.loads(line), "gate": FIRST, "why": why})
            for line in self._piles.lines(key, TRAJECTORIES):
                record = json.loads(line)
                own = {name: record[name] for name in ("task", "run", "rollout", "trace")}
                for turn in record["turns"]:
                    if turn["kept"]:
                        about = {
                            "t": turn["t"],
                            "class": turn["class"],
                            "what": turn["what"],
                            "gate": FIRST,
                            "why": why,
                        }
                        yield line_of({"id": f"{record['id']}:{turn['t']}", **own, **about})

    def _record(self, renderer: Renderer) -> dict[str, Any]:
        """dataset.json but for the hashes of its files. It names no folder outside the runs."""
        contract, options, tally = self._part.contract, self._options, self._tally
        return {
            "format": FORMAT,
            "contract": contract.hash,
            "protocol": contract.protocol,
            "tools": contract.tools,
            "prompts": [
                {"hash": text_hash(text), "rows": count, "text": text}
                for text, count in tally.prompts.most_common(_PROMPTS_SHOWN)
            ],
            "split": {"train": list(self._split.train), "held_out": list(self._split.held_out)}
            if self._split
            else None,
            "gates": options.settings.to_dict(),
            "sources": [source_record(*key, traces=count) for key, count in tally.sources.items()],
            "tokenizer": {"name": _placeless(options.tokenizer), "fingerprint": renderer.fingerprint()},
            "reconstructed": bool(tally.figures["reconstructed"]),
            "counts": {name: value for name, value in self.counts().items() if name != "problems"},
            "unseen_unknown": tally.figures["unseen_unknown"],
            "unchecked": tally.figures["unchecked"],
            "prompts_as_they_ran": tally.proof.line(),
            "near_duplicates": options.near and dict(options.near),
        }


def source_record(run: str, arm: Any, model: Any, suite: Any, *, traces: int) -> dict[str, Any]:
    """A line of `sources`: what `work.source_of` gives, and how many traces."""
    arm, model, suite = (spec and _placeless(spec) for spec in (arm, model, suite))
    return {"run": run, "arm": arm, "model": model, "suite": suite, "traces": traces}


def check_names(traces: Sequence[Path]) -> None:
    """Rows name their run: two of the same name could not be told apart."""
    folders = {folder for trace in traces if (folder := run_folder(trace)) is not None}
    named = Counter(folder.name for folder in folders)
    loose = Counter((trace.absolute().parent.name, trace.name) for trace in traces if run_folder(trace) is None)
    twice = [name for name, count in named.items() if count > 1] + [name for (name, _), n in loose.items() if n > 1]
    if twice:
        raise UserError(f"two folders have the name {twice[0]}", "build", "Rename one, so that rows can be traced")


def _placeless(spec: str) -> str:
    """A model's or a suite's spec with the last part of each path alone: `local:x` for `local:/home/me/x`."""
    return _FOLDERS.sub("", spec)
