"""Traces in, a new folder of preference pairs out, whole or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.chat.tokens import Tokens
from repo_agent.data.build import check_names, source_record
from repo_agent.data.classify import Registries
from repo_agent.data.dataset import DROPPED, FUNNEL, line_of, record_text, sha256_of
from repo_agent.data.export import check_exports
from repo_agent.data.gates import Funnel, GateContext
from repo_agent.data.pair_set import EXPORTS, FORMAT, PAIRS, RECORD, PairSet, card, export_pairs
from repo_agent.data.pairs import HOWS, PAIR_GATES, SAFE, Found, Pair, Said, Wanted, contexts, find_pairs
from repo_agent.data.tally import Proof
from repo_agent.data.texts import Texts
from repo_agent.data.tokens import refuse_what_differs
from repo_agent.errors import NothingLeft, UserError
from repo_agent.files import new_directory
from repo_agent.messages import Message
from repo_agent.tools.own import load_tools
from repo_agent.traces.read import find_traces
from repo_agent.traces.splits import RecordedSplit, TaskSplit, agreed_split

_PARTS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class PairOptions:
    """What `repo-agent pairs` takes; see its help."""

    paths: Sequence[Path]
    suite_split: TaskSplit | None = None
    no_split: bool = False
    tools: str | None = None
    hows: Sequence[str] = HOWS
    per_task: int = 20
    max_length: int | None = None
    """Tokens of a context and the longer of its two turns."""
    seed: int = 0
    tokenizer: str = "tiny"
    exports: Sequence[str] = ()
    allowed_secrets: frozenset[str] = frozenset()


def make_pairs(options: PairOptions, out: Path | None, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Write the folder `out`, or with None only count; returns the counts.

    Raises UserError for bad input, an `out` that exists, a prompt that renders otherwise than it ran, or where no pair
    is left (the message holds the funnel); then nothing is written.
    """
    if out is not None and out.exists():
        raise UserError("already exists", str(out), "Choose another --out, or remove it")
    _check(options)
    traces = find_traces(options.paths)
    check_names(traces)
    remedy = "Give --suite, or --no-split to pair everything"
    split = None if options.no_split or not traces else agreed_split(traces, options.suite_split, remedy)
    tokenizer = load_tokenizer(options.tokenizer)
    plain = Renderer(tokenizer)
    train = None if split is None else frozenset(split.train)
    context = GateContext(train, Texts(options.allowed_secrets, plain.control_tokens))
    registries = Registries(load_tools(options.tools) if options.tools else None)
    wanted = Wanted(train, options.hows, options.per_task, options.seed)
    found = find_pairs(traces, wanted, context, registries)
    made = _Made(options, split, found, Renderer(tokenizer, found.contract.printed_tools))
    read = contexts(found.pairs, registries)
    if out is None:
        made.take(read, None)
        made.refuse_what_is_wrong()
        return made.counts()
    with new_directory(out) as folder:
        with (folder / PAIRS).open("wb") as file:
            made.take(read, file)
        made.refuse_what_is_wrong()
        made.write(folder, say)
    return made.counts()


def _check(options: PairOptions) -> None:
    check_exports(options.exports, EXPORTS)
    odd = [name for name in options.hows if name not in HOWS]
    if odd or not options.hows:
        raise UserError(
            f"{', '.join(odd) or 'nothing'} is none of {', '.join(HOWS)}", "--chosen", "Choose some of them"
        )


@dataclass
class _Made:
    """The whole of it: pairs that fit, and what they come to."""

    options: PairOptions
    split: RecordedSplit | None
    found: Found
    renderer: Renderer
    pairs: list[Pair] = field(default_factory=list)
    proof: Proof = field(default_factory=Proof)
    tokens: Counter[str] = field(default_factory=Counter)
    """Tokens of the prompts, of the chosen and of the rejected turns."""

    def take(self, pairs: Iterator[tuple[Pair, Sequence[Message]]], file: IO[bytes] | None) -> None:
        """Tokenise each pair, drop those that are too long, compare the prompts with those that ran, and write what
        is left into a file."""
        most, fingerprint = self.options.max_length, Renderer(self.renderer.tokenizer).fingerprint()
        for pair, context in pairs:
            try:
                rows = [self._row(context, said) for said in (pair.chosen, pair.rejected)]
            except UserError as error:  # what a model says badly, a chat template may trim
                self.found.dropped.append((pair.rejected, "printed", error.what))
                continue
            longest = max(len(row.input_ids) for row in rows)
            if most is not None and longest > most:
                self.found.dropped.append((pair.rejected, "within_length", f"has {longest} tokens of at most {most}"))
                continue
            ran = [(pair.rejected, rows[1])] + ([] if pair.how == "corrected" else [(pair.chosen, rows[0])])
            for said, row in ran:
                self.proof.add(said.id, row.prompt_hashes()[0], fingerprint, said.prompt_ids)
            sizes = dict(zip(_PARTS, (rows[0].spans[0].start, rows[0].trained, rows[1].trained), strict=True))
            self.tokens.update(sizes)
            self.pairs.append(pair)
            if file is not None:
                file.write(line_of(_record(pair, context, sizes)))

    def _row(self, context: Sequence[Message], said: Said) -> Tokens:
        return self.renderer.rows([*context, said.reply], [len(context)])[0]

    def funnel(self) -> Funnel:
        """Bad turns by the gate that dropped them; what is left are the pairs."""
        names = ("contract", *SAFE, *PAIR_GATES)
        dropped: dict[str, Counter[str]] = {name: Counter() for name in names}
        for said, gate, _ in self.found.dropped:
            dropped[gate][said.task] += 1
        return Funnel(self.found.candidates, {name: dict(tasks) for name, tasks in dropped.items()}, len(self.pairs))

    def counts(self) -> dict[str, Any]:
        """The figures of the command's JSON."""
        return {
            "candidates": self.found.candidates,
            "funnel": self.funnel().totals(),
            "pairs": len(self.pairs),
            "chosen": dict(Counter(pair.how for pair in self.pairs)),
            "rejected": dict(Counter(pair.rejected.turn_class for pair in self.pairs)),
            "tasks": len({pair.rejected.task for pair in self.pairs}),
            "tokens": dict(self.tokens),
            "prompts": self.proof.to_dict(),
            "problems": self.found.problems,
        }

    def refuse_what_is_wrong(self) -> None:
        """Raise UserError where there is no pair, or where a prompt differs from what ran."""
        funnel = self.funnel()
        if not self.pairs:
            what = f"no pair is left of {funnel.candidates} bad turns: {funnel.line()}"
            remedy = "Give runs of the model that makes them, and of what does better in the same contexts (see --help)"
            raise NothingLeft(what, "pairs", remedy)
        refuse_what_differs(self.proof, "pairs")

    def write(self, folder: Path, say: Callable[[str], None]) -> None:
        """Fill the folder, in which the pairs are already."""
        with (folder / DROPPED).open("wb") as file:
            file.writelines(line_of(_dropped(*one)) for one in self.found.dropped)
        (folder / FUNNEL).write_text(record_text(self.funnel().to_dict()), encoding="utf-8")
        record = self._whole()
        made = PairSet(folder, record)
        names = [export_pairs(made, name, self.renderer, say) for name in dict.fromkeys(self.options.exports)]
        record["files"] = {name: sha256_of(folder / name) for name in (PAIRS, DROPPED, FUNNEL, *names)}
        (folder / RECORD).write_text(record_text(record), encoding="utf-8")
        (folder / "card.md").write_text(card(made, self.funnel()), encoding="utf-8")

    def _whole(self) -> dict[str, Any]:
        contract, split = self.found.contract, self.split
        return {
            "format": FORMAT,
            "contract": contract.hash,
            "protocol": contract.protocol,
            "tools": contract.tools,
            "split": {"train": list(split.train), "held_out": list(split.held_out)} if split else None,
            "per_task": self.options.per_task,
            "max_length": self.options.max_length,
            "sources": [source_record(*key, traces=count) for key, count in self.found.sources.items()],
            "tokenizer": {"fingerprint": self.renderer.fingerprint()},
            "counts": {name: value for name, value in self.counts().items() if name != "problems"},
            "prompts_as_they_ran": self.proof.line(),
        }


def _record(pair: Pair, context: Sequence[Message], tokens: dict[str, int]) -> dict[str, Any]:
    return {
        "id": pair.rejected.id,
        "task": pair.rejected.task,
        "group": pair.rejected.group,
        "class": pair.rejected.turn_class,
        "why": pair.rejected.why,
        "how": pair.how,
        "chosen_id": pair.chosen.id,
        "messages": [message.to_dict() for message in context],
        "chosen": pair.chosen.reply.to_dict(),
        "rejected": pair.rejected.reply.to_dict(),
        "tokens": tokens,
    }


def _dropped(said: Said, gate: str, why: str) -> dict[str, Any]:
    return {"id": said.id, "task": said.task, "class": said.turn_class, "gate": gate, "why": why}
