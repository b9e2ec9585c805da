"""The card of a dataset: what it holds, where it comes from, what was dropped, in one page of Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from repo_agent.data.gates import Funnel
from repo_agent.data.tally import Tally
from repo_agent.escape import markdown

_BAR = 40
_PROMPT_CHARS = 80
_NO_SPLIT = (
    "**SPLIT OFF** (`--no-split`): rows of held-out tasks may be inside. "
    "Never report held-out results of an adapter that was trained on this dataset."
)


def card(record: Mapping[str, Any], tally: Tally, funnel: Funnel) -> str:
    """The card as Markdown. `record` is dataset.json."""
    kept = {task: count for (gate, task), count in tally.turns.items() if not gate}
    sections = [
        _head(record),
        "## Funnel\n\n" + _funnel(funnel),
        "## Rows by turn class\n\n" + _counts("class", tally.classes),
        "## Rows by tool\n\n" + _counts("tool", tally.tools),
        "## Rows by task\n\n" + _counts("task", kept),
        "## System prompts\n\n" + _prompts(record["prompts"]),
        "## Tokens of a merged row\n\n" + _histogram(tally.lengths),
        "## Split\n\n" + _split(record["split"]),
        "## Near duplicates\n\n" + _near(record["near_duplicates"]),
        "## Sources\n\n" + _sources(record["sources"]),
        "## Hashes\n\n" + _table(("file", "sha256"), record["files"].items()),
        "## What is trained is what ran\n\n" + _proof(record),
    ]
    return "\n\n".join(sections) + "\n"


def _head(record: Mapping[str, Any]) -> str:
    counts, tokenizer = record["counts"], record["tokenizer"]
    unknown = record["unseen_unknown"]
    facts = [
        ("contract", f"{record['contract']} (tool schemas, protocol {record['protocol']})"),
        ("tokenizer", f"{tokenizer['name']} ({tokenizer['fingerprint']})"),
        ("step rows", counts["rows"]),
        ("merged rows", counts["merged_rows"]),
        ("rows that recover from a bad turn", counts["recoveries"]),
        ("rows that stop", counts["finals"]),
        ("tokens with loss", counts["trained_tokens"]),
        ("tokens, one row a step", counts["tokens_steps"]),
        ("tokens, one row a trajectory", counts["tokens_merged"]),
        ("trained tokens lost to the longest row allowed", _lost(counts["lost_tokens"])),
        ("gates", ", ".join(name if on is True else f"{name} {on}" for name, on in record["gates"].items())),
        ("writes of files that the model may not have seen", f"unknown for {unknown} rows" if unknown else "none kept"),
        ("rows whose call was not checked in full", record["unchecked"]),
        ("trajectories that name a home folder", f"{counts['homes']}{' (--rewrite-home)' if counts['homes'] else ''}"),
        ("reconstructed", "yes: texts were changed" if record["reconstructed"] else "no"),
    ]
    warning = "" if record["split"] else f"{_NO_SPLIT}\n\n"
    return f"# Dataset card\n\n{warning}" + _table(("what", "value"), facts)


def _lost(lost: Mapping[str, int]) -> str:
    return ", ".join(f"{tool} {count}" for tool, count in lost.items()) or "0"


def _funnel(funnel: Funnel) -> str:
    rows: list[tuple[Any, ...]] = [("candidates", "", funnel.candidates)]
    left = funnel.candidates
    for gate, dropped in funnel.totals().items():
        left -= dropped
        rows.append((gate, dropped, left))
    return _table(("gate", "dropped", "left"), rows) + "\n\nEach dropped turn and why: `dropped.jsonl`."


def _counts(name: str, counts: Mapping[str, int]) -> str:
    return _table((name, "rows"), sorted(counts.items(), key=lambda item: -item[1]))


def _prompts(prompts: Sequence[Mapping[str, Any]]) -> str:
    rows = [(one["hash"], one["rows"], " ".join(one["text"].split())[:_PROMPT_CHARS] or "none") for one in prompts]
    return _table(("prompt", "rows", "begins"), rows)


def _histogram(lengths: Mapping[int, int]) -> str:
    """Rows by length in powers of two."""
    most = max(lengths.values(), default=1)
    rows = [(f"≤ {2**power}", lengths[power], "█" * max(1, lengths[power] * _BAR // most)) for power in sorted(lengths)]
    return _table(("tokens", "rows", ""), rows)


def _split(split: Mapping[str, Sequence[str]] | None) -> str:
    if split is None:
        return _NO_SPLIT
    sides = [("train", "train"), ("held out", "held_out")]
    return "\n".join(
        f"- {name} ({len(split[key])}): {', '.join(map(markdown, split[key])) or 'none'}" for name, key in sides
    )


def _near(near: Mapping[str, Any] | None) -> str:
    """Programs that are alike on both sides of the split; where nobody looked, that."""
    if not near or not near["checked"]:
        return f"Not checked: {near['why'] if near else 'no suite was given'}."
    said = f"{near['compared']} pairs of a train and a held-out task compared by the shingles of their programs."
    highest = near["highest"]
    if highest is None:
        return f"{said} No two share one."
    most = f"{highest['similarity']:.2f} ({markdown(highest['train'])}, {markdown(highest['held_out'])})"
    summary = f"{said} {len(near['pairs'])} are alike by {near['threshold']:g} or more; the highest is {most}."
    if not near["pairs"]:
        return summary
    rows = [(pair["train"], pair["held_out"], f"{pair['similarity']:.2f}") for pair in near["pairs"]]
    return f"{summary}\n\n" + _table(("train", "held out", "similarity"), rows)


def _sources(sources: Sequence[Mapping[str, Any]]) -> str:
    keys = ("run", "arm", "model", "suite", "traces")
    return _table(keys, ([source[key] if source[key] is not None else "" for key in keys] for source in sources))


def _proof(record: Mapping[str, Any]) -> str:
    return (
        "Prompts of these rows, rendered afresh by this tokenizer, against the token ids recorded when the model ran: "
        f"{record['prompts_as_they_ran']}."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = [[markdown(str(cell)) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
