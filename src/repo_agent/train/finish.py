"""The end of a run: the best weights become an adapter directory, whole or not at all.

adapter_config.json, adapter_model.safetensors   PEFT's format
run_record.json                                  how it was made
README.md                                        the model card
canary.json                                      what base and adapter say to a few contexts; `eval` asks a server
training.svg                                     loss, eval_nll, validity, tokens a second
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from repo_agent.chat.weights import load_weights
from repo_agent.files import new_directory
from repo_agent.train.canary import CANARY, make_canary
from repo_agent.train.card import card
from repo_agent.train.measure import best_of, evaluating, token_nll
from repo_agent.train.passes import add_head
from repo_agent.train.plots import plot
from repo_agent.train.prepare import origin, trained_tasks
from repo_agent.train.record import RECORD, RunRecord, versions
from repo_agent.train.run import Run


def finish(run: Run, out: Path) -> RunRecord:
    """Write `out`; returns its record. Every process calls this, the main one writes."""
    best = best_of(run.evaluations.all)
    last = run.trainer.state.global_step
    weights = run.folder.path / f"best-{best.step}" if best else run.folder.path / f"best-{last}"
    if best is None:
        run.save(weights)
    elif best.step != last:
        _load(run, weights)
    form, nll = _as_served(run, weights)
    record = _record(run, form, nll)
    if run.world.main:
        with new_directory(out) as folder:
            for path in weights.iterdir():
                if path.name != "README.md":  # PEFT's, an empty form
                    shutil.copy(path, folder)
            canary = None if run.world.sharded else _canary(run)
            if canary:
                (folder / CANARY).write_text(canary, encoding="utf-8")
            (folder / RECORD).write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
            (folder / "README.md").write_text(card(record, out.name), encoding="utf-8")
            plot(record, folder / "training.svg")
    run.world.wait()
    return record


def _load(run: Run, weights: Path) -> None:
    """Put the best weights in the place of the last."""
    if run.world.sharded:
        return
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(run.trainer.model, load_file(weights / "adapter_model.safetensors"))


def _canary(run: Run) -> str | None:
    with evaluating(run.trainer.model):
        return make_canary(run.trainer.model, run.prepared)


def _as_served(run: Run, weights: Path) -> tuple[str, float | None]:
    """The form in which the adapter is to be served, and its `eval_nll`.

    A QLoRA was trained beside 4-bit weights and is served beside those of the base: it is measured there once more.
    """
    best = best_of(run.evaluations.all)
    precision = str(run.model.dtype).removeprefix("torch.")
    if run.config.quantize == "none":
        return f"base in {precision}, with the adapter", best.eval_nll if best else None
    if not run.prepared.held:
        return "base in bfloat16, with the adapter; not measured in this form", None
    from peft import PeftModel

    served = load_weights(run.config.base, run.world.device(), "bfloat16")
    add_head(served)
    tuned = PeftModel.from_pretrained(served, str(weights))
    return "base in bfloat16, with the adapter", token_nll(tuned, run.prepared.held, 1)[0]


def _record(run: Run, form: str, served_nll: float | None) -> RunRecord:
    import torch

    prepared, folder = run.prepared, run.folder
    steps, best = folder.steps(), best_of(run.evaluations.all)
    on_gpu = run.model.device.type == "cuda"
    facts: dict[str, Any] = {
        **origin(prepared.dataset, prepared.config, prepared.renderer, prepared.start),
        "device": torch.cuda.get_device_name(run.model.device) if on_gpu else str(run.model.device),
        "versions": versions(),
        "train_tasks": trained_tasks(prepared.tasks, prepared.start),
        "rows": len(prepared.rows),
        "dropped_too_long": prepared.made.too_long,
        "lost_tokens": dict(prepared.made.lost),
        "prompts": prepared.made.prompts,
        "tokens": sum(row.length for row in prepared.rows),
        "trained_tokens": prepared.size.trained,
        "losses": steps,
        "seconds": round(sum(step.seconds or 0.0 for step in steps), 2),
        "eval_tasks": list(prepared.held),
        "evals": run.evaluations.all,
        "best_step": best.step if best else None,
        "stopped_early": len(steps) < len(run.passes.steps),
        "resumed_at": folder.resumed_at(),
        "processes": run.world.size,
        "precision": str(run.model.dtype).removeprefix("torch."),
        "attention": run.attention,
        "pass_tokens": run.passes.most,
        "peak_memory": torch.cuda.max_memory_allocated(run.model.device) if on_gpu else None,
        "served_form": form,
        "served_nll": served_nll,
    }
    return RunRecord(**facts)
