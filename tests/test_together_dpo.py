"""Preference pairs at Together through the unpatched SDK, from a job's own checkpoint, and what is compared after the
start."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import together_server
from test_cli import run
from test_dpo import write_pairs
from test_together import CREATE, KEY, Case, archive, config, dataset, server  # noqa: F401
from test_together_stops import keyless, killed, words
from together_server import TogetherServer, event, metric

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.data.pair_set import export_pairs, read_pairs
from repo_agent.data.pair_tokens import pair_rows
from repo_agent.errors import UserError
from repo_agent.train.record import adapter_hash, read_record
from repo_agent.train.together.backend import train_together
from repo_agent.train.together.job import JobFolder

ESTIMATE, STORE = "POST /v1/fine-tunes/estimate-price", "GET /tokenised/ID"
CANCEL = "POST /v1/fine-tunes/ID/cancel"
STORED = event("tokenized_dataset_upload_complete", 2)


@pytest.fixture(scope="module")
def pairs(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "set", tiny_base)


@pytest.fixture(scope="module")
def sft(
    dataset: Path,  # noqa: F811
    tiny_base: Path,
    archive: bytes,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """An adapter that job ft-1 has made."""
    out = tmp_path_factory.mktemp("sft") / "adapter"
    with TogetherServer(load_tokenizer(str(tiny_base)), archive) as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOGETHER_BASE_URL", made.url)
        patch.setenv("TOGETHER_API_KEY", KEY)
        train_together(dataset, out, config(tiny_base))
    return out


@dataclasses.dataclass
class PairCase(Case):
    sft: Path | None = None

    def train(self, resume: bool = False, ask: Any = None, **more: Any) -> Any:
        settings = {"method": "dpo", "adapter": self.sft and str(self.sft), "beta": 0.2} | more
        return super().train(
            resume, ask, **settings | {"together": {"accept_unchecked": True} | more.get("together", {})}
        )


@pytest.fixture
def case(
    server: TogetherServer,  # noqa: F811
    pairs: Path,
    sft: Path,
    tiny_base: Path,
    tmp_path: Path,
) -> Iterator[PairCase]:
    """On a server that has made `sft` in job ft-1, and stores what it tokenised before it trains."""
    server.jobs["ft-1"] = {"model": "Tiny/Base-Instruct", "training_file": "file-0", "suffix": "sft"}
    server.events = [[], [STORED], [STORED, event("training_start", 3, total_steps=3)]]
    yield PairCase(pairs, tiny_base, tmp_path / "adapter", sft=sft)


def test_from_turns_to_preferences_on_their_checkpoint(
    server: TogetherServer,  # noqa: F811
    dataset: Path,  # noqa: F811
    pairs: Path,
    tiny_base: Path,
    tmp_path: Path,
) -> None:
    first = Case(dataset, tiny_base, tmp_path / "sft")
    before = first.train()
    server.events = [[], [STORED]]
    case = PairCase(pairs, tiny_base, tmp_path / "dpo", sft=first.out)
    record = case.train(dropout=0.1, together={"accept_unchecked": True, "suffix": "mine"})

    body = server.bodies(CREATE)[1]
    assert body.pop("suffix").startswith("mine-")
    rows = pair_rows(read_pairs(pairs), Renderer(load_tokenizer(str(tiny_base))), None).rows
    assert body == {
        "training_file": "file-2", "validation_file": "", "from_checkpoint": "ft-1", "n_epochs": 2,
        "n_checkpoints": 1, "n_evals": 0, "batch_size": 8, "packing": True,
        "max_seq_length": max(row.length for row in rows), "learning_rate": 2e-4,
        "lr_scheduler": {"lr_scheduler_type": "linear", "lr_scheduler_args": {"min_lr_ratio": 0.0}},
        "warmup_ratio": 0.05, "max_grad_norm": 1.0, "weight_decay": 0.0, "random_seed": 7,
        "early_stopping_enabled": False,
        "training_type": {"type": "Lora", "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.1,
                          "lora_trainable_modules": "all-linear"},
        "training_method": {"method": "dpo", "dpo_beta": 0.2, "dpo_normalize_logratios_by_length": False,
                            "dpo_reference_free": False},
    }  # fmt: skip
    for asked in server.bodies(ESTIMATE)[2:]:  # ours, and the SDK's own
        assert (asked["from_checkpoint"], asked["model"], asked["n_epochs"]) == ("ft-1", "", 2)
        assert (asked["training_method"]["method"], asked["training_method"]["dpo_beta"]) == ("dpo", 0.2)
        assert asked["training_type"]["lora_r"] == 8
    assert server.asked("POST /v1/fine-tunes/preview") == 1, "of the turns alone"
    copy = shutil.copytree(pairs, tmp_path / "copy")
    export_pairs(read_pairs(copy), "together", Renderer(load_tokenizer(str(tiny_base))), lambda _: None)
    assert server.content("file-2") == (copy / "dpo_together.jsonl").read_bytes()

    hosted = record.hosted
    assert hosted and (hosted.job, hosted.model, hosted.price_usd) == ("ft-2", "Tiny/Base-Instruct", 1.31)
    tokens = sum(row.chosen.length + row.rejected.length for row in rows)
    assert hosted.tokenised == {"pairs": 10, "tokens": tokens, "other_labels": 0} and hosted.preview == {}
    assert server.keys[STORE] == "" and server.keys[CREATE] == KEY
    assert record == read_record(case.out) and record.adapter_hash == adapter_hash(first.out)
    assert record.train_tasks == sorted({*before.train_tasks, *map(str, range(10))}) and record.rows == 10
    assert record.losses and record.prompts == {"equal": 9} and record.held_out is None
    told = json.loads((case.out / "together.json").read_text())
    assert told["settings"]["from_checkpoint"] == "ft-1" and keyless(tmp_path)


def test_from_the_base_too(server: TogetherServer, case: PairCase) -> None:  # noqa: F811
    case.sft = None
    record = case.train(batch_size=99)
    body = server.bodies(CREATE)[0]
    assert body["model"] == "Tiny/Base-Instruct" and "from_checkpoint" not in body and record.adapter_hash is None
    assert body["batch_size"] == 16, "the most that Together allows for pairs"


def test_turns_too_go_on_from_a_checkpoint(server: TogetherServer, case: PairCase, dataset: Path) -> None:  # noqa: F811
    case.dataset = dataset
    record = case.train(method="sft", together={"accept_unchecked": False})
    body = server.bodies(CREATE)[0]
    assert body["from_checkpoint"] == "ft-1" and "model" not in body and body["training_method"]["method"] == "sft"
    assert record.hosted.tokenised is None and record.hosted.preview["rows"] == 6
    assert case.sft and record.adapter_hash == adapter_hash(case.sft)


# --- before anything is spent


def test_nothing_is_sent_before_the_user_agrees_to_pairs_that_cannot_be_previewed(
    server: TogetherServer,  # noqa: F811
    case: PairCase,
) -> None:
    with pytest.raises(UserError, match="--together-accept-unchecked"):
        case.train(together={"accept_unchecked": False})
    assert not server.requests and not JobFolder(case.out).path.exists()


def test_rewards_are_no_matter_of_together(server: TogetherServer, case: PairCase) -> None:  # noqa: F811
    with pytest.raises(UserError, match="replies are drawn and graded here"):
        case.train(method="grpo", contexts=["runs/own"])
    assert not server.requests


def test_an_adapter_that_no_job_made_is_refused(server: TogetherServer, case: PairCase, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(UserError, match=r"was made on Tiny/Base-Instruct there.*Leave it out"):
        case.train(together={"model": "Other/Base"})
    assert case.sft
    record = json.loads((case.sft / "run_record.json").read_text())
    case.sft = shutil.copytree(case.sft, tmp_path / "local")
    (case.sft / "run_record.json").write_text(json.dumps(record | {"hosted": None}))
    with pytest.raises(UserError, match=r"was trained on this machine.*--backend together first, or leave out"):
        case.train()
    assert not server.requests


def test_pairs_that_together_would_cut_are_refused(
    server: TogetherServer,  # noqa: F811
    case: PairCase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both turns may have to share the length."""
    rows = pair_rows(read_pairs(case.dataset), Renderer(load_tokenizer(str(case.base))), None).rows
    longer = max(row.longer for row in rows)
    limits = together_server.LIMITS.model_copy(update={"max_seq_length_dpo": 2 * longer - 1})
    monkeypatch.setattr(together_server, "LIMITS", limits)
    with pytest.raises(UserError, match=f"--max-length, for both turns of a pair, {2 * longer}: from 1 to"):
        case.train()
    record = case.train(max_length=longer - 1)
    assert 0 < record.dropped_too_long == sum(row.longer == longer for row in rows)
    assert record.dropped_too_long + record.rows == 10 == record.hosted.tokenised["pairs"] + record.dropped_too_long


# --- after the start


@pytest.mark.parametrize(("stored", "labels"), [("parquet", 0), ("jsonl", 0), ("nested", 0), ("prompt", None)])
def test_forms_that_are_read(
    server: TogetherServer,  # noqa: F811
    case: PairCase,
    stored: str,
    labels: int | None,
) -> None:
    server.stored = stored
    found = case.train().hosted.tokenised
    assert (found["pairs"], found["other_labels"]) == (10, labels)


@pytest.mark.parametrize(
    ("stored", "mask", "said"),
    [
        ("arrow", "default system", r"other tokens of 10 of 10 pairs; pair 1: preferred: token \d+ is .*, here it is"),
        ("arrow", "cuts", r"preferred: it has 20 tokens, here \d+"),
        ("arrow", "swapped", r"other tokens of 10 of 10 pairs; pair 1: preferred: token \d+ is"),
        ("prompt", "goes on", r"preferred: token \d+ and what follows are 'and so on', here it ends"),
        ("arrow", "headers", r"the loss on other tokens in 10 of 10 pairs; pair 1: \d+ more tokens have loss"),
    ],
)
def test_a_planted_difference_cancels_the_job(
    server: TogetherServer,  # noqa: F811
    case: PairCase,
    stored: str,
    mask: str,
    said: str,
) -> None:
    server.stored, server.mask = stored, mask
    with pytest.raises(UserError, match=rf"ft-2 at Together: .*{said}.*was cancelled"):
        case.train()
    assert server.jobs["ft-2"]["forced"] == "cancelled" and "forced" not in server.jobs["ft-1"]
    assert not case.out.exists() and case.job.tokenised is None
    with pytest.raises(UserError, match=rf"{said}.*the job is cancelled"):
        case.train(resume=True)
    assert len(server.jobs) == 2 and server.asked(CANCEL) == 1


def test_what_is_no_difference_passes(server: TogetherServer, case: PairCase) -> None:  # noqa: F811
    server.mask = "goes on"  # without loss
    assert case.train().hosted.tokenised["other_labels"] == 0
    server.mask, case.out = "headers", case.out.with_name("second")
    record = case.train(together={"accept_unchecked": True, "accept_labels": True})
    assert record.hosted.tokenised["other_labels"] == 10


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        ("one column", "columns input_ids, length"),
        (b"<html>not here</html>", "its form is unknown: ReadError"),
        (None, "knows no such model, file or job"),
    ],
)
def test_what_cannot_be_read_is_told_as_not_measured(
    server: TogetherServer,  # noqa: F811
    case: PairCase,
    stored: Any,
    why: str,
) -> None:
    server.stored = stored
    record = case.train()
    assert record.hosted.tokenised["pairs"] is None and why in record.hosted.tokenised["why"]
    (line,) = [line for line in case.said if "not measured: nothing was compared" in line]
    assert why in line and record == read_record(case.out)


def test_it_is_compared_at_the_end_where_no_event_tells_of_it(
    server: TogetherServer,  # noqa: F811
    case: PairCase,
) -> None:
    server.events, server.faults[STORE] = [[]], [500, "drop"]
    assert case.train().hosted.tokenised["pairs"] == 10


def test_a_store_that_fails_is_asked_again(server: TogetherServer, case: PairCase) -> None:  # noqa: F811
    server.faults[STORE] = [500, "drop"]
    server.metrics = [[metric(1, 2.0)]]
    assert case.train().hosted.tokenised["pairs"] == 10 and server.asked(STORE) == 3


# --- killed


@pytest.mark.parametrize(
    ("route", "fault", "posts"),
    [
        (CREATE, ("after", "hang"), 1),
        pytest.param(CREATE, "hang", 2, marks=pytest.mark.slow),
        pytest.param(STORE, "hang", 1, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_there_is_one_job(
    server: TogetherServer,  # noqa: F811
    case: PairCase,
    capsys: pytest.CaptureFixture[str],
    route: str,
    fault: Any,
    posts: int,
) -> None:
    more = ["--method", "dpo", "--adapter", str(case.sft), "--together-accept-unchecked"]
    server.faults[route] = [fault]
    said = killed(server, case, *more)
    assert KEY not in said and not case.out.exists()
    code, out, error = run(capsys, *words(case, *more, "--resume", "--json"))
    assert code == 0, error
    assert list(server.jobs) == ["ft-1", "ft-2"] and server.asked(CREATE) == posts
    assert json.loads(out) == read_record(case.out).model_dump(mode="json")
    assert json.loads(out)["hosted"]["tokenised"]["pairs"] == 10 and keyless(case.out.parent)


@pytest.mark.slow
def test_killed_between_the_difference_and_its_cancel_the_job_is_cancelled(
    server: TogetherServer,  # noqa: F811
    case: PairCase,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ["--method", "dpo", "--adapter", str(case.sft), "--together-accept-unchecked"]
    server.mask, server.faults[CANCEL] = "swapped", ["hang"]
    killed(server, case, *more)
    assert "forced" not in server.jobs["ft-2"]
    code, _, error = run(capsys, *words(case, *more, "--resume"))
    assert code == 2 and "Together makes other tokens" in error and server.jobs["ft-2"]["forced"] == "cancelled"
