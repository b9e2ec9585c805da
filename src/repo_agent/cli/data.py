"""The commands between traces and training: `inventory`, `build` and `audit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repo_agent.cli.options import Json, output, shown

Tools = Annotated[str | None, typer.Option("--tools", help="Your tools: a .py file, a module, or schema.json.")]
Traces = Annotated[list[Path], typer.Argument(help="Runs, folders or trace files.")]


def inventory(paths: Traces, tools: Tools = None, as_json: Json = False) -> None:
    """What a pile of traces holds: runs, passes, turns by class, and how many rows would pass the gates."""
    from repo_agent.data.inventory import inventory as count

    result = count(paths, tools)
    output(as_json, result, lambda show: show.inventory(result))


def build(
    paths: Traces,
    out: Annotated[Path | None, typer.Option(help="New dataset directory; needed unless --dry-run.")] = None,
    suite: Annotated[str | None, typer.Option(help="Take the split from this suite, not from the runs.")] = None,
    tools: Tools = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(help="NAME adds a gate, NAME=off leaves it out, NAME=NUMBER sets it. Repeatable."),
    ] = None,
    gates: Annotated[
        Path | None, typer.Option(help="A TOML file of gates: [gates] NAME = true, false or number.")
    ] = None,
    allow_secret: Annotated[
        list[str] | None,
        typer.Option(help="Hash of a finding that is no secret, as dropped.jsonl gives it. Repeatable."),
    ] = None,
    export: Annotated[
        list[str] | None,
        typer.Option(
            help="chat-steps, chat-trajectories:together, chat-trajectories:openai, trl, parquet, hf. Repeatable."
        ),
    ] = None,
    rerender: Annotated[
        bool, typer.Option("--rerender", help="Put another agent's calls and results into our protocol.")
    ] = False,
    rewrite_home: Annotated[bool, typer.Option("--rewrite-home", help="Write home folders as ~ in every row.")] = False,
    hold_out: Annotated[
        str | None,
        typer.Option(help="Hold out so many groups of recorded tasks, or a share such as 30%; kept in dataset.json."),
    ] = None,
    no_split: Annotated[bool, typer.Option("--no-split", help="Keep held-out tasks too (never to train on).")] = False,
    tokenizer: Annotated[str, typer.Option(help="Model whose tokenizer counts and renders the rows.")] = "tiny",
    max_length: Annotated[
        int | None, typer.Option(help="Longest row, in tokens (32,768); it ends after the last turn that fits.", min=2)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the funnel; write nothing.")] = False,
    jobs: Annotated[int, typer.Option(help="Processes at once.", min=1)] = 1,
    as_json: Json = False,
) -> None:
    """Make a dataset of the turns that pass every gate: context, then the next tool call.

    Prints how many turns each gate dropped. dropped.jsonl says of each turn which gate dropped it, and why.

    repo-agent build runs/teacher --export chat-steps --out datasets/first
    """
    from repo_agent.cli.duplicates import NO_SPLIT, near_duplicates
    from repo_agent.data.build import BuildOptions
    from repo_agent.data.build import build as make
    from repo_agent.data.gates import gate_settings
    from repo_agent.errors import UserError
    from repo_agent.tasks import load_suite

    if out is None and not dry_run:
        raise UserError("no directory to write to", "--out", "Give --out, or --dry-run to see the funnel alone")
    settings = gate_settings(gate or (), gates, allow_secret or (), max_length)
    loaded = load_suite(suite) if suite else None
    options = BuildOptions(
        paths=paths,
        settings=settings,
        suite_split=loaded.split() if loaded else None,
        no_split=no_split,
        hold_out=hold_out,
        tools=tools,
        rerender=rerender,
        rewrite_home=rewrite_home,
        tokenizer=tokenizer,
        exports=export or (),
        jobs=jobs,
        near=NO_SPLIT if no_split else None if dry_run else near_duplicates(paths, loaded),
    )
    show = shown(as_json)
    with show.bar("reading traces", of_bytes=True) as bar:
        result = make(options, None if dry_run else out, bar.count, show.line)
    output(as_json, result, lambda show: show.dataset(None if dry_run else out, result))


def pairs(
    paths: Traces,
    out: Annotated[Path | None, typer.Option(help="New folder of pairs; needed unless --dry-run.")] = None,
    suite: Annotated[str | None, typer.Option(help="Take the split from this suite, not from the runs.")] = None,
    tools: Tools = None,
    chosen: Annotated[
        list[str] | None,
        typer.Option(
            help="What may be preferred: sample, constrained, corrected, other (all these), passed. Repeatable."
        ),
    ] = None,
    per_task: Annotated[int, typer.Option(help="Pairs of one task, at most.", min=1)] = 20,
    max_length: Annotated[
        int | None, typer.Option(help="Tokens of context and longer turn; longer pairs are dropped, not cut.", min=2)
    ] = None,
    allow_secret: Annotated[
        list[str] | None,
        typer.Option(help="Hash of a finding that is no secret, as dropped.jsonl gives it. Repeatable."),
    ] = None,
    export: Annotated[list[str] | None, typer.Option(help="trl, together, openai. Repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Decides which pairs of a task are taken.")] = 0,
    no_split: Annotated[bool, typer.Option("--no-split", help="Pair held-out tasks too (never to train on).")] = False,
    tokenizer: Annotated[str, typer.Option(help="Model whose tokenizer counts and renders the pairs.")] = "tiny",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the funnel; write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Make preference pairs: a bad turn, and a valid call that ran in the very same context.

    Every bad turn of the runs is a candidate. Preferred to it is, in this order, another turn of the same model there
    (sample), one that it said under a grammar (constrained), the call by which its rollout recovered (corrected), or
    another model's turn there (other). More of them: `replay RUNS --split train --samples 4`, or with --constrain, asks
    in the recorded contexts again; give its runs too.

    --chosen passed compares outcomes: a valid turn of a rollout that failed is rejected for what one that passed said
    in the very same context. For a model that has learned the schema.

    repo-agent pairs runs/tuned-train runs/again --export trl --out pairs/first
    """
    from repo_agent.data.pair_build import PairOptions, make_pairs
    from repo_agent.data.pairs import HOWS
    from repo_agent.errors import UserError
    from repo_agent.tasks import load_suite

    if out is None and not dry_run:
        raise UserError("no folder to write to", "--out", "Give --out, or --dry-run to see the funnel alone")
    options = PairOptions(
        paths=paths,
        suite_split=load_suite(suite).split() if suite else None,
        no_split=no_split,
        tools=tools,
        hows=chosen or HOWS,
        per_task=per_task,
        max_length=max_length,
        seed=seed,
        tokenizer=tokenizer,
        exports=export or (),
        allowed_secrets=frozenset(allow_secret or ()),
    )
    result = make_pairs(options, None if dry_run else out, shown(as_json).line)
    output(as_json, result, lambda show: show.preferences(None if dry_run else out, result))


def audit(
    dataset: Annotated[Path, typer.Argument(help="A directory that `build` made.")],
    tokenizer: Annotated[str, typer.Option(help="Model whose tokenizer renders the rows.")] = "tiny",
    rows: Annotated[int, typer.Option(help="Rows to show, one a task.", min=0)] = 2,
    html: Annotated[Path | None, typer.Option(help="Write an HTML page here instead.")] = None,
) -> None:
    """Look through a dataset: a few rows, each token coloured by whether it carries loss.

    Also the first and last trained token of each kind of turn, and dropped turns by reason.

    repo-agent audit datasets/first --tokenizer Qwen/Qwen2.5-7B-Instruct
    """
    from repo_agent.chat.render import Renderer
    from repo_agent.chat.tokenizer import load_tokenizer
    from repo_agent.data.audit import audit as look
    from repo_agent.data.audit import audit_page
    from repo_agent.data.dataset import read_dataset
    from repo_agent.errors import UserError

    read = read_dataset(dataset)
    renderer = Renderer(load_tokenizer(tokenizer), read.contract.printed_tools)
    if html is None:
        shown(False).audit(look(read, renderer, rows))
        return
    if html.exists():
        raise UserError("already exists", str(html), "Choose another --html, or remove it")
    if not html.parent.is_dir():
        raise UserError(f"no folder {html.parent}", str(html), "Make it first")
    html.write_text(audit_page(read, renderer), encoding="utf-8")
    shown(False).line(f"page: {html}")
