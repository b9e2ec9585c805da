"""Live rollouts: one arm, played over one side of a suite, into one run directory that can be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from repo_agent.models import Model
from repo_agent.models.resolve import open_model
from repo_agent.models.tokens import TokenCounter
from repo_agent.rollout.episode import player, rollouts_of
from repo_agent.rollout.options import EvalOptions, check, chosen, setting
from repo_agent.rollout.oracle import oracle, playable
from repo_agent.rollout.record import run_record
from repo_agent.rollout.runner import Play, Watch
from repo_agent.rollout.served import prove_served
from repo_agent.rollout.session import carry_out, session_of
from repo_agent.tasks import load_suite
from repo_agent.tasks.task import Task
from repo_agent.traces import events


def run_eval(options: EvalOptions, watch: Watch | None = None) -> dict[str, Any]:
    """Play the pending rollouts of a run directory; returns the command's JSON. Where a stop ended it, `stopped` says
    which.

    Raises UserError for bad options, a run of other settings, or an adapter that does not belong to it; InfraError
    where the model or the grader keeps failing.
    """
    check(options)
    suite = load_suite(options.suite)
    tasks = chosen(suite, options)
    shared = setting(options, suite)
    if options.model == "oracle":
        playable(shared.spec, tasks)
    record = run_record(options, suite, tasks, shared)
    if options.adapter:
        shared = replace(shared, counter=TokenCounter(record["adapter"]["base"]))
    session = session_of(options, record, rollouts_of(tasks, options.rollouts), shared.prices, watch)
    model = open_model(options.model) if session.pending and options.model != "oracle" else None

    def model_for(task: Task, number: int) -> Model:
        return model or oracle(task, shared.spec.protocol, shared.rollout_seed(task, number))

    async def begin() -> tuple[Play, Sequence[events.LlmAction]]:
        schema = shared.spec.protocol.schema(shared.spec.registry) if shared.constrain else None
        constraint, canary = await prove_served(options, model, schema, session.meter)
        return player(tasks, model_for, replace(shared, constraint=constraint), session.meter, session.watch), canary

    return carry_out(session, model, begin)
