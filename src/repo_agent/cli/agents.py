"""The commands beside other agents: `serve` them a local model, take their conversations in by `record` and `import`,
`mark` them, and write their `tools`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repo_agent.cli.options import Adapter, Json, output, shown

Tools = Annotated[Path | None, typer.Option("--tools", help="Tools to judge by: schema.json, or a .py file.")]


def serve(
    models: Annotated[list[str], typer.Argument(metavar="NAME=MODEL", help="Such as tuned=local:BASE+ADAPTER.")],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes any free one.", min=0, max=65535)] = 8322,
) -> None:
    """Serve local models to any agent, by name, over an OpenAI-compatible API on loopback. Ctrl-C ends it.

    repo-agent serve base=local:tiny tuned=local:tiny+adapters/first

    It is made for small models: each name has its own weights. Serve large ones with vLLM.
    """
    from repo_agent.errors import UserError
    from repo_agent.models.serve import serve as run

    pairs = [(name, spec) for name, _, spec in (model.partition("=") for model in models)]
    odd = [name for name, spec in pairs if not name or not spec.startswith("local:")]
    if odd or len(dict(pairs)) < len(pairs):
        raise UserError("is no NAME=local:MODEL, or a name is given twice", " ".join(models), "Write base=local:tiny")
    run(dict(pairs), port, lambda url: shown(False).line(f"serving {', '.join(dict(pairs))} at {url}; Ctrl-C ends"))


def record(
    upstream: Annotated[str, typer.Option(help="Base URL that the agent uses now, such as https://HOST/v1.")],
    out: Annotated[Path, typer.Option(help="Run directory; one of the same settings is resumed.")],
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes any free one.", min=0, max=65535)] = 8321,
    tools: Tools = None,
    task_from: Annotated[str, typer.Option(help="Task ids: goal, name, or regex:PATTERN over the goal.")] = "goal",
    adapter: Adapter = None,
    as_json: Json = False,
) -> None:
    """Record any agent: a proxy to its OpenAI-compatible server that turns conversations into traces. Ctrl-C ends it.

    repo-agent record --upstream https://api.together.xyz/v1 --out runs/mine

    Then give your agent the base URL http://127.0.0.1:8321/v1, and change nothing else.
    """
    from repo_agent.record.serve import RecordOptions
    from repo_agent.record.serve import record as serve
    from repo_agent.rollout.record import served_adapter

    tied = served_adapter(adapter) if adapter else None
    options = RecordOptions(upstream=upstream, out=out, port=port, tools=tools, task_from=task_from, adapter=tied)
    with shown(as_json).recording() as live:
        result = serve(options, live.start, live.update)
    output(as_json, result, lambda show: show.recorded(out, result))


def import_(
    kind: Annotated[str, typer.Argument(help="openai (chat logs), sweagent (.traj) or mini (.traj.json).")],
    path: Annotated[Path, typer.Argument(help="A file, or a folder of them.")],
    out: Annotated[Path, typer.Option(help="New run directory.")],
    tools: Tools = None,
    passed: Annotated[
        bool | None,
        typer.Option("--passed/--failed", help="The outcome of rollouts whose log says none."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Turn another agent's logs into traces that `inventory`, `build` and `show` read.

    repo-agent import sweagent trajectories/ --out runs/sweagent
    """
    from repo_agent.record.importers import import_logs

    result = import_logs(kind, path, out, tools, passed)
    output(as_json, result, lambda show: show.imported(out, result))


def tools(
    runs: Annotated[list[Path], typer.Argument(help="Recorded or imported runs, or trace files.")],
    out: Annotated[Path, typer.Option(help="New JSON file: an OpenAI tools list.")],
    as_json: Json = False,
) -> None:
    """Write the tool schemas of a recorded run to a file, for `--tools` of other commands.

    repo-agent tools runs/mine --out schema.json
    """
    from repo_agent.record.schemas import write_schemas

    result = write_schemas(runs, out)
    output(as_json, result, lambda show: show.fields(result))


def mark(
    run: Annotated[Path, typer.Argument(help="A run directory that `record` or `import` made.")],
    which: Annotated[str, typer.Argument(metavar="TASK/K", help="One rollout, or TASK for all of its rollouts.")],
    outcome: Annotated[str, typer.Argument(help="passed, failed, or unknown to take a mark back.")],
    as_json: Json = False,
) -> None:
    """Say whether a recorded or imported rollout did its job. Only rollouts that passed are trained on.

    repo-agent mark runs/mine fix-the-date-parser-1a2b3c4d/0 passed
    """
    from repo_agent.traces.labels import mark as label
    from repo_agent.traces.store import RunDir

    marked = label(run, which, outcome, RunDir(run).rollouts())
    result = {"marked": [f"{one.task}/{one.number}" for one in marked], "outcome": outcome}
    output(as_json, result, lambda show: show.pairs([(outcome, ", ".join(result["marked"]))]))
