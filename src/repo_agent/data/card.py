"""The card of a dataset: what it holds, where it comes from, what was dropped, in one page of Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from repo_agent.data.gates import Funnel
from repo_agent.data.parity import Parity
from repo_agent.data.steps import Step
from repo_agent.escape import markdown

_BAR = 40
_NO_SPLIT = (
    "**SPLIT OFF** (`--no-split`): rows of held-out tasks may be inside. "
    "Never report held-out results of an adapter that was trained on this dataset."
)


def card(
    record: Mapping[str, Any], steps: Sequence[Step], funnel: Funnel, lengths: Sequence[int], parity: Parity
) -> str:
    """The card as Markdown. `lengths`: tokens of each merged row."""
    sections = [
        _head(record),
        "## Funnel\n\n" + _funnel(funnel),
        "## Rows by turn class\n\n" + _counts("class", (step.turn_class for step in steps)),
        "## Rows by tool\n\n" + _counts("tool", (step.call.name if step.call else "final" for step in steps)),
        "## Rows by task\n\n" + _counts("task", (step.task for step in steps)),
        "## Tokens of a merged row\n\n" + _histogram(lengths),
        "## Split\n\n" + _split(record["split"]),
        "## Near duplicates\n\n" + _near(record["near_duplicates"]),
        "## Sources\n\n" + _sources(record["sources"]),
        "## Hashes\n\n" + _table(("file", "sha256"), record["files"].items()),
        f"## Parity\n\n{parity.line()}",
    ]
    return "\n\n".join(sections) + "\n"


def _head(record: Mapping[str, Any]) -> str:
    counts, tokenizer = record["counts"], record["tokenizer"]
    facts = [
        ("contract", f"{record['contract']} (system prompt, tool schemas, protocol {record['protocol']})"),
        ("tokenizer", f"{tokenizer['name']} ({tokenizer['fingerprint']})"),
        ("step rows", counts["rows"]),
        ("merged rows", counts["merged_rows"]),
        ("tokens with loss", counts["trained_tokens"]),
        ("tokens, one row a step", counts["tokens_steps"]),
        ("tokens, one row a trajectory", counts["tokens_merged"]),
        ("longest row allowed", f"{record['max_length']} tokens"),
        ("reconstructed", "yes: put into our protocol" if record["reconstructed"] else "no"),
    ]
    warning = "" if record["split"] else f"{_NO_SPLIT}\n\n"
    return f"# Dataset card\n\n{warning}" + _table(("what", "value"), facts)


def _funnel(funnel: Funnel) -> str:
    rows: list[tuple[Any, ...]] = [("candidates", "", funnel.candidates)]
    left = funnel.candidates
    for gate, dropped in funnel.totals().items():
        left -= dropped
        rows.append((gate, dropped, left))
    return _table(("gate", "dropped", "left"), rows)


def _counts(name: str, values: Iterable[str]) -> str:
    return _table((name, "rows"), Counter(values).most_common())


def _histogram(lengths: Sequence[int]) -> str:
    """Rows by length in powers of two."""
    bins = Counter(max(length - 1, 0).bit_length() for length in lengths)
    most = max(bins.values())
    rows = [(f"≤ {2**power}", bins[power], "█" * max(1, bins[power] * _BAR // most)) for power in sorted(bins)]
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


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = [[markdown(str(cell)) for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
