"""An adapter's model card: what it is for, what it was made of, how to serve it."""

from __future__ import annotations

import json

from repo_agent.escape import markdown
from repo_agent.train.record import Evaluation, RunRecord

_CARD = """---
base_model: {base_json}
library_name: peft
pipeline_tag: text-generation
tags: [lora, tool-calling, repo-agent]
---

# {name}

A LoRA that makes its base emit valid tool calls for one set of tools and one protocol (the contract). It was trained
for no other tools.

| | |
|---|---|
{facts}

{evaluations}

## Serve it

Serve it as it was measured: {form}.

```
{line}
```

Then: `repo-agent eval --model openai:{name}@http://localhost:8000/v1 --adapter DIR …`. `canary.json` holds a few
contexts of the training data, by which `eval` proves that a server runs this adapter. Remove it before you publish the
adapter if these are private.
"""


def card(record: RunRecord, name: str) -> str:
    """README.md of an adapter directory, with the head that the Hub reads."""
    config = record.config
    trained = f"{record.trained_tokens:,} of {record.tokens:,} tokens trained"
    rate = f"{len(record.losses)} steps, peak rate {config.lr or 0.0:g}, {config.schedule}, seed {record.seed}"
    took = "time unknown" if record.seconds is None else f"{record.seconds:.0f} s"
    facts = {
        "base": f"{markdown(record.base)}, weights {record.base_hash or 'not on record'}",
        "begun with": f"adapter {record.adapter_hash}" if record.adapter_hash else "a new adapter",
        "contract": f"{record.contract}, protocol {markdown(record.protocol)}",
        "dataset": record.dataset,
        "pairs" if config.method == "dpo" else "rows": f"{record.rows} of {len(record.train_tasks)} tasks; {trained}",
        "LoRA": f"rank {config.rank}, alpha {config.alpha}, {markdown(config.target)}",
        "training": f"{config.method}, {config.epochs} epochs, {rate}",
        "on": f"{record.device}, {record.precision or 'precision unknown'}, {record.processes} process(es), {took}",
    }
    return _CARD.format(
        base_json=json.dumps(record.base),
        name=markdown(name),
        facts="\n".join(f"| {what} | {value} |" for what, value in facts.items()),
        evaluations="\n".join(_evaluations(record)),
        form=record.served_form or "the form is not on record",
        line=serving_line(record, name),
    )


def serving_line(record: RunRecord, folder: str) -> str:
    """The command that serves base and adapter: with vLLM, or here a base that is known by its name to us alone."""
    rank = next((size for size in (8, 16, 32, 64, 128, 256) if size >= record.config.rank), record.config.rank)
    kind = f" --dtype {record.precision}" if record.precision else ""
    name = folder.rstrip("/").rsplit("/", 1)[-1]
    if record.base in ("tiny", "smollm2"):
        return f"repo-agent serve base=local:{record.base} {name}=local:{record.base}+{folder} --port 8000"
    return f"vllm serve {record.base}{kind} --enable-lora --max-lora-rank {rank} --lora-modules {name}={folder}"


def _evaluations(record: RunRecord) -> list[str]:
    if not record.evals:
        return ["No train task was held back, so nothing was evaluated during training."]
    tasks, pairs = len(record.eval_tasks), any(one.preference_loss is not None for one in record.evals)
    heads = ["step", "eval_nll", *(["preference loss", "preferred"] if pairs else []), "replayed calls valid"]
    return [
        f"Evaluations on {tasks} train tasks that were held back. The weights are those of step {record.best_step}.",
        "",
        f"| {' | '.join(heads)} |",
        "|---" * len(heads) + "|",
        *(f"| {' | '.join(_cells(one, pairs))} |" for one in record.evals),
    ]


def _cells(one: Evaluation, pairs: bool) -> list[str]:
    def shown(figure: float | None, form: str) -> str:
        return "not measured" if figure is None else format(figure, form)

    valid = "not measured" if one.validity is None else f"{one.validity:.1%} of {one.replayed}"
    preferences = [shown(one.preference_loss, ".4f"), shown(one.preferred, ".0%")] if pairs else []
    return [str(one.step), shown(one.eval_nll, ".4f"), *preferences, valid]
