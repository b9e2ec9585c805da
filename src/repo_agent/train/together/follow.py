"""Follow a job at Together to its end: status, events, metrics.

Together's three lists of states and events disagree, and more may come. So names are compared without regard to case,
and an unknown one never ends the wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from repo_agent.errors import InfraError, Stopped, UserError
from repo_agent.train.record import OnStep, Say, StepLoss
from repo_agent.train.together.client import Client, Unsure
from repo_agent.train.together.job import Job, JobFolder

EVENTS, METRICS = "events.jsonl", "metrics.jsonl"
_WAITING = frozenset("pending queued running compressing uploading cancel_requested".split())
_TOKENISED = "tokenized_dataset_upload_complete"
_TOLERATED = 40
"""Failed looks in a row, each of several tries, before this gives up. The job does not notice."""
_AGAIN = "the same command with --resume follows it, with --cancel ends it"
STEP, LOSS = "train/global_step", "train/loss"


@dataclass
class Follower:
    """One look after another; `losses` holds the last loss of each step."""

    client: Client
    folder: JobFolder
    job: Job
    on_step: OnStep | None
    say: Say
    check: Callable[[bool], None] | None = None
    """Is called at each look, and told whether Together has stored what it tokenised."""
    losses: dict[int, float] = field(default_factory=dict)
    total_steps: int = 0
    _unknown: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._known = {_identity(event) for event in self.folder.lines(EVENTS)}
        self._metrics = self.folder.lines(METRICS)
        self._count(self._metrics)

    def follow(self, pause: float) -> Any:
        """Wait for the job's end; returns the job as Together last told it. Raises UserError or InfraError where it
        failed, Stopped where it was cancelled or Ctrl-C came."""
        failed = 0
        try:
            while True:
                try:
                    found = self.look()
                except Unsure as error:
                    failed += 1
                    if failed > _TOLERATED:
                        raise InfraError(error.stage, f"{error.cause}; {self._runs()}; {_AGAIN}") from None
                else:
                    failed = 0
                    if self._ended(found):
                        return found
                time.sleep(pause)
        except KeyboardInterrupt:
            raise Stopped(self._runs(), 130, _AGAIN) from None

    def look(self) -> Any:
        """The job as it is now, with what is new about it told and kept."""
        api, name = self.client.api.fine_tuning, str(self.job.job_id)
        with self.client.asking("follow"):
            found = api.retrieve(name)
            events = [event.to_dict(mode="json") for event in api.list_events(name).data or []]
            metrics = api.list_metrics(name).metrics or []
        self._keep_events(events)
        self._keep_metrics(metrics, getattr(found, "total_steps", None))
        status = _word(getattr(found, "status", None))
        if status != self.job.status:
            self.job.status = status
            self.folder.save(self.job)
            self.say(f"{name}: {status}")
        if self.check:
            self.check(any(_word(event.get("type")) == _TOKENISED for event in self.folder.lines(EVENTS)))
        return found

    def steps(self) -> list[StepLoss]:
        return [StepLoss(step=step, loss=loss) for step, loss in sorted(self.losses.items())]

    def seconds(self) -> float | None:
        """From the start of training to its end by Together's events; None where they do not say."""
        times = {_word(event.get("type")): str(event.get("created_at")) for event in self.folder.lines(EVENTS)}
        try:
            ends = [datetime.fromisoformat(times[name]) for name in ("training_start", "training_complete")]
            return (ends[1] - ends[0]).total_seconds()
        except (KeyError, ValueError, TypeError):
            return None

    def _keep_events(self, events: list[dict[str, Any]]) -> None:
        fresh = [event for event in events if _identity(event) not in self._known]
        self._known |= {_identity(event) for event in fresh}
        self.folder.add(EVENTS, fresh)
        for event in fresh:
            kind = _word(event.get("type"))
            self.total_steps = event.get("total_steps") or self.total_steps
            self.say(f"{kind}: {event.get('message') or ''}")

    def _keep_metrics(self, metrics: list[dict[str, float]], total: int | None) -> None:
        """Together lists all metrics each time, in the order of time."""
        self.total_steps = total or self.total_steps
        pairs = enumerate(zip(self._metrics, metrics, strict=False))
        same = next((at for at, (old, new) in pairs if old != new), min(len(self._metrics), len(metrics)))
        self.folder.add(METRICS, metrics[same:])
        for step in self._count(metrics[same:]):
            if self.on_step:
                self.on_step(step, max(self.total_steps, step), self.losses[step])
        self._metrics = metrics

    def _count(self, metrics: list[dict[str, float]]) -> list[int]:
        """Take losses in; returns their steps. A job that was restarted goes back: what was lost no longer counts."""
        steps = []
        for metric in metrics:
            if STEP in metric and LOSS in metric:
                step = int(metric[STEP])
                self.losses = {one: loss for one, loss in self.losses.items() if one < step} | {step: metric[LOSS]}
                steps.append(step)
        return [step for step in steps if step in self.losses]

    def _ended(self, found: Any) -> bool:
        status = self.job.status
        if status == "completed":
            return True
        if status in ("error", "user_error"):
            said = "; ".join(str(event.get("message")) for event in self._bad_events()) or "no reason given"
            remedy = f"Remove {self.folder.path} to start another job"
            if status == "user_error":
                raise UserError(f"the job failed: {said}", str(self.job.job_id), remedy)
            raise InfraError("together", f"job {self.job.job_id} failed: {said}", remedy)
        if status == "cancelled":
            raise Stopped(f"job {self.job.job_id} was cancelled", 3, f"remove {self.folder.path} to start another")
        if status not in _WAITING and status not in self._unknown:
            self._unknown.add(str(status))
            self.say(f"{status!r} is a state that this version does not know: still waiting")
        return False

    def _bad_events(self) -> list[dict[str, Any]]:
        events = self.folder.lines(EVENTS)
        return [event for event in events if "error" in f"{event.get('type')} {event.get('level')}".casefold()][-3:]

    def _runs(self) -> str:
        return f"job {self.job.job_id} keeps running at Together and is billed"


def _identity(event: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(event.get(key) for key in ("created_at", "type", "step", "message"))


def _word(value: Any) -> str:
    return str(getattr(value, "value", value)).casefold()
