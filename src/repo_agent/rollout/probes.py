"""Probes of a run's model: does it still answer without a call, chat, and read ordinary text? See `repo_agent.probes`.

Replies are drawn greedily, and free: a constraint of the run is left out, so its base and its constrained base have the
same answers. The run's own system prompt, tools and protocol stand before the prompts that have tools at hand.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from repo_agent.chat.base import base_hash
from repo_agent.errors import UserError, boundary
from repo_agent.messages import Message, read_spoken, seed_of, text_hash
from repo_agent.models import Completion, Model, Reader, Request, Sampling
from repo_agent.models.prices import find_prices
from repo_agent.models.resolve import PRESETS, open_model, parts
from repo_agent.probes import CHAT, TEXT, WITH_TOOLS, Probe, set_hash
from repo_agent.probes.answers import METRICS, AnswerFile, Answers
from repo_agent.probes.checks import fits, loops
from repo_agent.protocols.contract import Contract
from repo_agent.protocols.leaks import without_thinking
from repo_agent.protocols.stray import attempts_call, holds_final
from repo_agent.rollout.meter import Budget, Meter, Metered
from repo_agent.rollout.served import prove_served
from repo_agent.rollout.session import first
from repo_agent.traces.read import read_first
from repo_agent.traces.store import PROBES, RunDir
from repo_agent.train.record import adapter_hash

Count = Callable[[int, int], None]
"""Is told how many probes are done, and of how many."""


@dataclass(frozen=True)
class ProbeOptions:
    """What `repo-agent probes` takes of each run; see its help."""

    run: Path
    max_tokens: int = 192
    jobs: int = 8
    budget_usd: float | None = None
    budget_tokens: int | None = None
    price_in: float | None = None
    price_out: float | None = None


@dataclass(frozen=True)
class _Played:
    """The model of a run, and what its agent says before a prompt."""

    model: str
    adapter: Path | None
    split: str
    system: str
    tools: list[dict[str, Any]]
    printed: list[dict[str, Any]] | None
    """The tools where they are sent beside the messages."""

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool["function"]["name"] for tool in self.tools)


def run_probes(options: ProbeOptions, count: Count | None = None) -> dict[str, Any]:
    """Ask a run's model what has not been asked yet; returns the command's JSON. The answers lie in the run's folder.

    Raises UserError for a run whose model cannot be asked, or is no longer the same; InfraError where it keeps failing;
    Stopped where the budget is spent. What is answered by then stays, and the same command goes on.
    """
    run = RunDir(options.run)
    record = run.record
    played, sampling = _played(run, record), Sampling(0.0, options.max_tokens)
    prices = find_prices(played.model, options.price_in, options.price_out)
    meter = Meter(Budget(options.budget_usd, options.budget_tokens), prices, run.spent())
    with AnswerFile(options.run, _settings(record, played, sampling)) as file:
        if file.pending:
            _refuse_changed(record, played)
            asker = _Asker(played, open_model(played.model), sampling, meter, file, count or (lambda *_: None))
            try:
                asyncio.run(asker.ask_all(run, options.jobs))
            except ExceptionGroup as group:
                raise first(group) from None
        answers = Answers({}, tuple(file.rows))
    figures = {metric: answers.mean(metric) for metric in METRICS}
    return {
        "run": str(options.run),
        "model": played.model,
        **figures,
        "prompts": {metric: len(answers.values(metric)) for metric in METRICS},
        "tokens": meter.tokens,
        "cost_usd": meter.usd,
        "file": str(options.run / PROBES),
    }


def _played(run: RunDir, record: dict[str, Any]) -> _Played:
    model, traces = str(record.get("model")), run.traces()
    if parts(model)[0] not in ("local", *PRESETS):
        raise UserError(f"its model ({model}) cannot be asked", str(run.path), "Give a run of `eval` or `replay`")
    if not traces:
        raise UserError("holds no whole rollout yet", str(run.path), "Finish the run first")
    start = read_first(traces[0])
    tools = start.tools or []
    folder = record.get("adapter_dir")
    return _Played(
        model,
        Path(folder).expanduser() if folder else None,
        str(record.get("split")),
        start.system,
        tools,
        Contract(tools, start.protocol).printed_tools,
    )


def _settings(record: dict[str, Any], played: _Played, sampling: Sampling) -> dict[str, Any]:
    """The first line of the file: what was asked, of which model, and how."""
    return {
        "format": 1,
        "probes": set_hash(),
        "model": played.model,
        "adapter": (record.get("adapter") or {}).get("hash"),
        "base_hash": record.get("base_hash"),
        "protocol": record.get("protocol"),
        "contract": record.get("contract"),
        "prompt_hash": text_hash(played.system),
        "sampling": asdict(sampling),
        "seed": 0,
        "versions": {"python": platform.python_version(), "repo-agent": version("repo-agent")},
    }


def _refuse_changed(record: dict[str, Any], played: _Played) -> None:
    """Raise UserError for a base or an adapter that is no longer the one that played."""
    kind, base, own = parts(played.model)
    folder = played.adapter or (Path(own).expanduser() if own else None)
    known = (record.get("adapter") or {}).get("hash")
    if folder and known and adapter_hash(folder) != known:
        raise UserError("is no longer the adapter that played this run", str(folder), "Play the run anew")
    known = record.get("base_hash")
    if kind == "local" and known and base_hash(base) not in (known, None):
        raise UserError("is no longer the base that played this run", base, "Play the run anew")


class _Asker:
    """Asks a model the pending probes of a file, some at a time."""

    def __init__(
        self, played: _Played, model: Model, sampling: Sampling, meter: Meter, file: AnswerFile, count: Count
    ) -> None:
        self._played, self._model, self._sampling = played, model, sampling
        self._metered, self._meter, self._file, self._count = Metered(model, meter), meter, file, count

    async def ask_all(self, run: RunDir, jobs: int) -> None:
        pending = self._file.pending
        self._total = len(pending) + len(self._file.rows)
        try:
            replies = (await prove_served(self._played, self._model, None, self._meter))[1]
            if replies:
                run.add_canary(replies)
            waiting = iter(pending)
            async with asyncio.TaskGroup() as group:
                for _ in range(min(jobs, len(pending))):
                    group.create_task(self._work(waiting))
        finally:
            await self._model.close()

    async def _work(self, waiting: Sequence[Probe] | Any) -> None:
        for probe in waiting:
            self._file.add(probe, await (self._read(probe) if probe.group == TEXT else self._ask(probe)))
            self._count(len(self._file.rows), self._total)

    async def _read(self, probe: Probe) -> dict[str, Any]:
        """Nats and tokens of a text; None where a model does not tell, as most servers do not."""
        nats, tokens = await self._model.nats(probe.text) if isinstance(self._model, Reader) else (None, None)
        spent = {"prompt_tokens": 0, "completion_tokens": 0}
        return {"nats": None if nats is None else round(nats, 4), "tokens": tokens, **spent}

    async def _ask(self, probe: Probe) -> dict[str, Any]:
        at_hand = probe.group == WITH_TOOLS
        system = (Message("system", self._played.system),) if at_hand and self._played.system else ()
        request = Request(
            (*system, Message("user", probe.text)),
            self._sampling,
            seed_of(0, probe.group, probe.id),
            tools=self._played.printed if at_hand else None,
        )
        with boundary("model"):
            completion = await self._metered.complete(request)
        fitted = completion.finish_reason != "context"
        with boundary("verdict"):
            verdict = judged(probe, completion, self._played.names) if fitted else {"passed": None, "whole": None}
        return {
            "reply": completion.text,
            "finish": completion.finish_reason,
            **verdict,
            "prompt_tokens": completion.usage.prompt_tokens if fitted else 0,
            "completion_tokens": completion.usage.completion_tokens if fitted else 0,
        }


def judged(probe: Probe, completion: Completion, tools: frozenset[str]) -> dict[str, bool]:
    """Whether a reply holds a call, good or broken; whether it is what the prompt asked for; and whether it is whole.

    An answer without a call may, with tools at hand, be in the form by which the agent ends; else it is prose.
    """
    said = without_thinking(read_spoken(completion.text)[0] if probe.group == WITH_TOOLS else completion.text).strip()
    at_hand = probe.group == WITH_TOOLS
    call = attempts_call(completion.text, tools if at_hand else None)
    passed = bool(said) and not call and (at_hand or not holds_final(said))
    if probe.group == CHAT:
        passed = passed and fits(said, probe.checks)
    whole = bool(said) and completion.finish_reason == "stop" and not loops(said)
    return {"call": call, "passed": passed, "whole": whole}
