"""The whole path of `--backend together` through the unpatched SDK, against a server of its own types on loopback."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_train import trajectory, write_dataset
from together_server import UNAVAILABLE, TogetherServer, event, metric

from repo_agent.chat.base import base_hash
from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.data.dataset import read_dataset
from repo_agent.errors import InfraError, Stopped, UserError
from repo_agent.messages import Message
from repo_agent.models import Request, Sampling
from repo_agent.train.backends import backend_named
from repo_agent.train.config import TrainConfig
from repo_agent.train.record import read_record
from repo_agent.train.together.backend import cancel_together, train_together
from repo_agent.train.together.config import TogetherConfig
from repo_agent.train.together.job import JobFolder
from repo_agent.train.together.rows import PREVIEWED, ordered, upload_rows

KEY = "tgp_v1_secret-of-a-user-0123456789"
CREATE, LIST, DOWNLOAD = "POST /v1/fine-tunes", "GET /v1/fine-tunes", "GET /v1/finetune/download"
PAUSE = 0.01


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six trajectories; the second has a turn without loss, the third is the longest."""
    found = [trajectory(n, 6 if n == 2 else 2 + n % 3, dropped=1 if n == 1 else None) for n in range(6)]
    folder = write_dataset(tmp_path_factory.mktemp("data") / "set", found)
    record = json.loads((folder / "dataset.json").read_text())
    record["split"] = {"train": [one.task for one in found], "held_out": ["kept"]}
    (folder / "dataset.json").write_text(json.dumps(record))
    return folder


@pytest.fixture(scope="module")
def archive(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A LoRA of the tiny base in PEFT's own format, packed as Together packs."""
    return packed(lora(tiny_base, tmp_path_factory.mktemp("peft")))


def lora(base: Path, folder: Path, rank: int = 8, trained: bool = True) -> Path:
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    model = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        peft.LoraConfig(r=rank, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    torch.manual_seed(0)
    for name, value in model.named_parameters():
        if "lora_B" in name and trained:
            torch.nn.init.normal_(value, std=0.5)
    model.save_pretrained(folder)
    return folder


def packed(folder: Path, kind: str = "zstd", inside: str = "model/") -> bytes:
    import pyarrow

    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, inside + path.name)
    return pyarrow.compress(plain.getvalue(), kind, asbytes=True) if kind else plain.getvalue()


@pytest.fixture
def server(tiny_base: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[TogetherServer]:
    with TogetherServer(load_tokenizer(str(tiny_base)), archive) as made:
        monkeypatch.setenv("TOGETHER_BASE_URL", made.url)
        monkeypatch.setenv("TOGETHER_API_KEY", KEY)
        yield made


def config(base: Path, **more: Any) -> TrainConfig:
    settings = {"model": "Tiny/Base-Instruct", "yes": True, "poll_seconds": PAUSE} | more.pop("together", {})
    given = {"base": str(base), "rank": 8, "alpha": 16, "lr": 2e-4, "epochs": 2, "seed": 7} | more
    return TrainConfig(**given, together=TogetherConfig(**settings))


@dataclasses.dataclass
class Case:
    """A dataset, a base and an adapter directory to be; `said` holds what was told on the way."""

    dataset: Path
    base: Path
    out: Path
    said: list[str] = dataclasses.field(default_factory=list)
    steps: list[tuple[int, int, float]] = dataclasses.field(default_factory=list)

    def train(self, resume: bool = False, ask: Any = None, **more: Any) -> Any:
        on_step = lambda *step: self.steps.append(step)  # noqa: E731
        return train_together(
            self.dataset, self.out, config(self.base, **more), on_step, resume=resume, ask=ask, say=self.said.append
        )

    @property
    def job(self) -> Any:
        return JobFolder(self.out).read()


@pytest.fixture
def case(dataset: Path, tiny_base: Path, tmp_path: Path) -> Case:
    return Case(dataset, tiny_base, tmp_path / "adapter")


# --- the whole path


def test_from_a_dataset_to_an_adapter_that_runs(server: TogetherServer, case: Case) -> None:
    record = case.train()
    assert record == read_record(case.out) and not JobFolder(case.out).path.exists()
    assert [(one.step, one.loss) for one in record.losses] == [(1, 2.0), (2, 1.5), (3, 1.0)]
    assert case.steps == [(1, 3, 2.0), (2, 3, 1.5), (3, 3, 1.0)] and record.seconds == 60
    hosted = record.hosted
    assert hosted and (hosted.price_usd, hosted.estimate_usd, hosted.left_out) == (1.31, 1.25, 0)
    assert hosted.preview["rows"] == 6 and hosted.preview["shapes_not_previewed"] == []
    assert record.base_hash == base_hash(str(case.base)) and record.train_tasks == [str(n) for n in range(6)]
    assert record.held_out == ["kept"]
    assert {path.name for path in case.out.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "run_record.json", "together.json",
    }  # fmt: skip
    told = json.loads((case.out / "together.json").read_text())
    assert [one["type"] for one in told["events"]] == ["job_start", "training_start", "training_complete"]
    assert told["checkpoints"][0]["step"] == 3 and told["status"] == "completed"
    assert greedy(case.base, case.out) != greedy(case.base, None)
    assert server.key == KEY and KEY not in " ".join(path.read_text(errors="replace") for path in case.out.iterdir())


def greedy(base: Path, adapter: Path | None) -> str:
    from repo_agent.models.local import LocalModel

    model = LocalModel(str(base), adapter, name="local")

    async def reply() -> str:
        answer = await model.complete(Request((Message("user", "GOAL:\nrename f9"),), Sampling(0, 16), 0))
        await model.close()
        return answer.text

    return asyncio.run(reply())


def test_the_request_holds_every_setting_and_the_file_a_weight_on_every_message(
    server: TogetherServer, case: Case
) -> None:
    record = case.train(dropout=0.1, warmup=0.1, together={"batch_size": 8, "checkpoints": 2, "suffix": "mine"})
    (body,) = server.bodies(CREATE)
    suffix = body.pop("suffix")
    assert suffix.startswith("mine-") and len(suffix) <= 40
    rows = server.uploaded()
    longest = upload_rows(read_dataset(case.dataset), renderer(case.base), 8192).longest
    assert body == {
        "training_file": "file-1", "validation_file": "", "model": "Tiny/Base-Instruct", "n_epochs": 2,
        "n_checkpoints": 2, "n_evals": 0, "batch_size": 8, "packing": True, "max_seq_length": longest,
        "learning_rate": 2e-4, "lr_scheduler": {"lr_scheduler_type": "linear",
                                                "lr_scheduler_args": {"min_lr_ratio": 0.0}},
        "warmup_ratio": 0.1, "max_grad_norm": 1.0, "weight_decay": 0.0, "random_seed": 7,
        "early_stopping_enabled": False,
        "training_type": {"type": "Lora", "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.1,
                          "lora_trainable_modules": "all-linear"},
        "training_method": {"method": "sft", "train_on_inputs": False},
    }  # fmt: skip
    assert len(rows) == record.rows == 6
    assert all(message["weight"] in (0, 1) for row in rows for message in row["messages"])
    assert all(message["role"] == "assistant" for row in rows for message in row["messages"] if message["weight"])
    assert sum(message["weight"] for row in rows for message in row["messages"]) == 2 + 2 + 6 + 2 + 3 + 4
    (estimate,) = {json.dumps(one, sort_keys=True) for one in server.bodies("POST /v1/fine-tunes/estimate-price")[:1]}
    assert '"lora_r": 8' in estimate and '"n_epochs": 2' in estimate


def renderer(base: Path) -> Renderer:
    return Renderer(load_tokenizer(str(base)))


def test_batch_sizes_are_moved_into_what_together_allows(server: TogetherServer, case: Case) -> None:
    case.train(batch_size=2)
    assert server.bodies(CREATE)[0]["batch_size"] == 8
    case.out = case.out.with_name("largest")
    case.train(batch_size=2, together={"batch_size": "max"})
    assert server.bodies(CREATE)[1]["batch_size"] == "max"
    assert server.asked("PUT /upload/ID") == 1, "the same file is not uploaded twice: it is known by its checksum"


def test_all_problems_are_listed_at_once_and_nothing_is_uploaded(server: TogetherServer, case: Case) -> None:
    with pytest.raises(UserError) as error:
        case.train(rank=128, lr=0.5, epochs=99, schedule="constant_with_warmup", together={"batch_size": 4})
    for flag in ("--rank 128", "--lr 0.5", "--epochs 99", "--schedule", "--together-batch-size 4"):
        assert flag in str(error.value)
    assert server.asked("POST /v1/files") == 0
    with pytest.raises(UserError, match="--together-model"):
        case.train(together={"model": None})


# --- rows


def test_the_first_rows_show_every_shape(dataset: Path, tiny_base: Path) -> None:
    made = upload_rows(read_dataset(dataset), renderer(tiny_base), 8192).rows
    lengths = [len(row.expected.input_ids) for row in made]
    assert lengths[0] == max(lengths), "the longest row is previewed, since it is the one that may be cut"
    assert any("a turn without loss" in row.shape for row in made[:2])
    plain = dataclasses.replace(made[1], shape=frozenset({"plain"}))
    odd = dataclasses.replace(made[1], shape=frozenset({"plain", "odd"}))
    assert odd in ordered([plain] * 50 + [odd])[:PREVIEWED]
    assert len(ordered([plain] * 50)) == 50


def test_a_row_ends_at_the_last_turn_that_fits_and_what_is_lost_is_counted(dataset: Path, tiny_base: Path) -> None:
    whole = upload_rows(read_dataset(dataset), renderer(tiny_base), 8192)
    short = upload_rows(read_dataset(dataset), renderer(tiny_base), whole.longest - 1)
    assert short.lost["read_file"] == whole.trained - short.trained > 0 and short.too_long == 0
    for row in short.rows:
        assert row.record["messages"][-1]["weight"] == 1, "a row ends with a trained turn"


def test_a_row_that_tokenises_otherwise_in_one_go_is_left_out(tmp_path: Path, tiny_base: Path) -> None:
    """A reply that begins with what the tokenizer joins to the line break before it is trained apart from it."""
    found = trajectory(0, 2)
    own = renderer(tiny_base)
    own.tokenizer.add_tokens(["\n\n"])
    messages = list(found.messages)
    messages[2] = Message("assistant", "\n" + messages[2].content)
    odd = dataclasses.replace(found, id="odd", messages=messages)
    made = upload_rows(read_dataset(write_dataset(tmp_path / "a", [found, odd])), own, 8192)
    assert (len(made.rows), made.inexact) == (2, 1)
    weights = [[message["weight"] for message in row.record["messages"]] for row in made.rows]
    assert sorted(weights) == [[0, 0, 0, 0, 1], [0, 0, 1, 0, 1]], "the odd turn is context there, never a target"


# --- the gates before a job


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ("strips", None),
        ("default system", "Together makes other tokens of 6 of 6 previewed rows; row 1: token"),
        ("cuts", "cut to 20 tokens"),
        ("every reply", "other tokens in 1 of 6"),
        ("everything", "more tokens have loss"),
        ("headers", "more tokens have loss, the first"),
        ("no end token", "tokens have none, the first 2 '<|im_end|>'"),
    ],
)
def test_a_planted_difference_in_the_preview_stops_it(
    server: TogetherServer, case: Case, mask: str, said: str | None
) -> None:
    server.mask = mask
    if said is None:
        case.train()
        return
    with pytest.raises(UserError) as error:
        case.train()
    assert said in str(error.value) and not server.jobs
    server.mask = ""
    case.train(resume=True)
    assert len(server.jobs) == 1 and server.asked("PUT /upload/ID") == 1


def test_other_labels_may_be_accepted_other_ids_never(server: TogetherServer, case: Case) -> None:
    server.mask = "headers"
    record = case.train(together={"accept_labels": True})
    assert record.hosted and record.hosted.preview["other_labels"] == 6
    server.mask, case.out = "default system", case.out.with_name("second")
    with pytest.raises(UserError, match="other tokens of"):
        case.train(together={"accept_labels": True})
    assert len(server.jobs) == 1


@pytest.mark.parametrize(
    ("status", "report", "said"),
    [
        ("INVALID_FORMAT", {"valid": False, "error": "line 3 has no role"}, "INVALID_FORMAT, line 3 has no role"),
        ("FAILED", {"valid": False, "error": None}, "FAILED, no reason given"),
        ("COMPLETED", {"valid": False, "error": "too short"}, "COMPLETED, too short"),
        ("COMPLETED", {"dataset_has_message_weights": False}, "does not see the messages' weights"),
        ("COMPLETED", {"nlines": 5}, "reads 5 rows, the file has 6"),
    ],
)
def test_a_file_that_together_does_not_read_as_meant_stops_it(
    server: TogetherServer, case: Case, status: str, report: dict[str, Any], said: str
) -> None:
    server.files, server.report = ["PENDING", status], report
    with pytest.raises((UserError, InfraError), match=said):
        case.train()
    assert not server.jobs and server.asked("POST /v1/fine-tunes/preview") == 0


def estimated(**more: Any) -> Any:
    from together.types.fine_tuning_estimate_price_response import AvailableEstimate

    return AvailableEstimate(**{"estimation_available": True, "allowed_to_proceed": True} | more)


@pytest.mark.parametrize(
    ("estimate", "settings", "said"),
    [
        (estimated(allowed_to_proceed=False, estimated_total_price=90.0, user_limit=5.0), {}, r"does not allow .*\$90"),
        (estimated(estimated_total_price=90.0), {"budget_usd": 10}, r"estimates \$90.00, the budget is \$10.00"),
        (estimated(), {}, r"no price \(no reason given\)"),
        (UNAVAILABLE, {}, r"no price \(train_file_not_validated\)"),
        (UNAVAILABLE, {"yes": False, "budget_usd": 10}, r"no price \(train_file_not_validated\)"),
        (estimated(estimated_total_price=1.0), {"yes": False}, "nobody is there to agree"),
    ],
)
def test_no_job_without_a_price_that_may_be_spent(
    server: TogetherServer, case: Case, estimate: Any, settings: dict[str, Any], said: str
) -> None:
    server.estimate = estimate
    with pytest.raises(UserError, match=said):
        case.train(together=settings)
    assert not server.jobs
    server.estimate = estimated(estimated_total_price=1.0)
    case.train(resume=True, together={"budget_usd": 2})
    assert len(server.jobs) == 1 and server.asked("PUT /upload/ID") == 1


def test_a_person_is_asked_and_may_say_no(server: TogetherServer, case: Case) -> None:
    asked: list[str] = []
    with pytest.raises(Stopped) as stop:
        case.train(together={"yes": False}, ask=lambda question: bool(asked.append(question)))
    assert stop.value.code == 3 and asked == ["Create the job at Together for about $1.25?"] and not server.jobs
    server.estimate = UNAVAILABLE
    case.train(resume=True, together={"yes": False}, ask=lambda question: "unknown what this job costs" in question)
    assert len(server.jobs) == 1


# --- one job, whatever happens


@pytest.mark.parametrize(
    ("faults", "runs", "posts"),
    [
        ([("after", 500)], 1, 1),
        ([("after", "drop")], 1, 1),
        ([429], 1, 2),
        ([429, ("after", 500)], 1, 2),
        ([500], 2, 2),
        ([503], 2, 2),
        ([409], 2, 2),
        (["drop"], 2, 2),
        ([429, 429, 429], 2, 4),
        ([500, "drop", 500], 4, 4),
    ],
)
def test_create_makes_one_job_whatever_the_server_answers(
    server: TogetherServer, case: Case, faults: list[Any], runs: int, posts: int
) -> None:
    """Where no job is listed after a failure, the run stops; each --resume looks, and posts once more."""
    server.faults[CREATE] = list(faults)
    for number in range(runs - 1):
        with pytest.raises(InfraError, match=r"no job adapter-|answered 429"):
            case.train(resume=number > 0)
        assert not server.jobs
    case.train(resume=runs > 1)
    assert len(server.jobs) == 1 and server.asked(CREATE) == posts


def test_a_job_that_is_listed_late_is_found(server: TogetherServer, case: Case) -> None:
    server.faults[CREATE], server.hidden = [("after", 500)], 2
    case.train()
    assert len(server.jobs) == 1 and server.asked(CREATE) == 1 and server.asked(LIST) == 3


def test_the_sdk_alone_makes_three_jobs_of_one_failure(server: TogetherServer) -> None:
    """Why `create` may not be left to the SDK: this is what it does by default."""
    from together import InternalServerError, Together

    server.faults[CREATE] = [("after", 500)] * 3
    with pytest.raises(InternalServerError):
        Together(base_url=server.url).fine_tuning.create(training_file="file-1", model="a/b", lora=True)
    assert len(server.jobs) == 3


def test_a_refused_request_makes_no_job_and_may_be_given_again(server: TogetherServer, case: Case) -> None:
    for status, said in ((400, "refuses"), (401, "refused the key"), (402, "no credit left"), (403, "does not allow"),
                         (404, "knows no such"), (422, "refuses")):  # fmt: skip
        server.faults[CREATE] = [status]
        with pytest.raises(UserError, match=said) as error:
            case.train(resume=JobFolder(case.out).exists)
        assert "told to fail" in str(error.value) and KEY not in str(error.value), "the key is in no message"
        assert case.job.stage == "approved"
    case.train(resume=True)
    assert len(server.jobs) == 1


def test_a_job_of_another_kind_is_cancelled(server: TogetherServer, case: Case, monkeypatch: Any) -> None:
    listed = server.listed

    def without_lora(name: str, status: str) -> Any:
        server.jobs[name]["training_type"] = {"type": "Full"}
        return listed(name, status)

    monkeypatch.setattr(server, "listed", without_lora)
    with pytest.raises(InfraError, match="is no LoRA of rank and alpha"):
        case.train()
    assert server.jobs["ft-1"]["forced"] == "cancelled"


# --- upload, follow, download


@pytest.mark.parametrize(
    ("route", "faults"),
    [
        ("POST /v1/files", [500]),
        ("POST /v1/files", [429, 429]),
        ("PUT /upload/ID", [503]),
        ("PUT /moved/ID", ["drop"]),
        ("POST /v1/files/ID/preprocess", ["drop"]),
        ("GET /v1/files/ID", [500, "drop"]),
        ("POST /v1/fine-tunes/preview", [500]),
        ("POST /v1/fine-tunes/estimate-price", [429]),
        ("GET /v1/fine-tunes/ID", ["drop", 500, 429]),
        ("GET /v1/fine-tunes/ID/events", [500]),
        ("GET /v1/fine-tunes/ID/metrics", ["drop"]),
        ("GET /v1/fine-tunes/ID/checkpoints", [500]),
        (DOWNLOAD, [500]),
        ("GET /storage/ID", ["half", "drop"]),
    ],
)
def test_what_may_be_asked_twice_is(server: TogetherServer, case: Case, route: str, faults: list[Any]) -> None:
    server.faults[route] = list(faults)
    case.train()
    assert server.faults[route] == [] and len(server.jobs) == 1


def test_a_restarted_job_goes_back_and_unknown_states_keep_waiting(server: TogetherServer, case: Case) -> None:
    server.states = ["Pending", "warming_the_oven", "running", "running", "running", "completed"]
    before = [metric(1, 2.0), metric(2, 1.5), metric(3, 1.4), metric(4, 1.3)]
    after = [*before, metric(2, 1.6), metric(3, 1.1)]
    server.metrics = [[], before[:1], before, after]
    server.events = [[], [event("JOB_RESTARTED", 9, "node lost"), event("never heard of", 10)]]
    record = case.train()
    assert [(one.step, one.loss) for one in record.losses] == [(1, 2.0), (2, 1.6), (3, 1.1)]
    assert "job_restarted: node lost" in case.said
    assert sum("a state that this version does not know" in line for line in case.said) == 1
    assert record.seconds is None, "no event said when training began"


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        ("error", InfraError, "failed: out of memory"),
        ("user_error", UserError, "the job failed: out of memory"),
        ("cancelled", Stopped, "was cancelled"),
    ],
)
def test_a_job_that_ends_badly_says_why(
    server: TogetherServer, case: Case, state: str, error: type[Exception], said: str
) -> None:
    server.states = ["running", state]
    server.events = [[event("job_error", 5, "out of memory", level="error")]]
    with pytest.raises(error, match=said):
        case.train()
    assert not case.out.exists() and case.job.status == state
    with pytest.raises(error, match=said):
        case.train(resume=True)
    assert len(server.jobs) == 1


def test_ctrl_c_leaves_the_job_running_and_says_so(server: TogetherServer, case: Case) -> None:
    server.metrics = [[metric(1, 2.0)]]

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(Stopped, match="ft-1 keeps running at Together and is billed") as stopped:
        train_together(case.dataset, case.out, config(case.base), stop)
    assert stopped.value.code == 130 and "--resume" in stopped.value.resume and "--cancel" in stopped.value.resume
    case.train(resume=True)
    assert len(server.jobs) == 1


def test_cancel_ends_the_job(server: TogetherServer, case: Case) -> None:
    with pytest.raises(UserError, match="no job is under way"):
        cancel_together(case.out)
    server.faults[CREATE] = [("after", "drop")]
    server.hidden = 99
    with pytest.raises(InfraError):
        case.train()
    server.hidden = 0
    assert cancel_together(case.out) == "job ft-1: cancel_requested"
    assert server.jobs["ft-1"]["forced"] == "cancelled"


def test_another_run_of_the_same_adapter_is_refused(server: TogetherServer, case: Case) -> None:
    server.estimate = UNAVAILABLE
    with pytest.raises(UserError):
        case.train()
    with pytest.raises(UserError, match="is under way"):
        case.train()
    with pytest.raises(UserError, match="other settings: learning_rate, lora_r"):
        case.train(resume=True, lr=1e-3, rank=4)
    with JobFolder(case.out).held(), pytest.raises(UserError, match="another process trains in it"):
        case.train(resume=True)
    assert backend_named("together") and not server.jobs


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda base, folder: packed(lora(base, folder, rank=4)), "r 4, asked for 8"),
        (lambda base, folder: packed(lora(base, folder, trained=False)), "every lora_B is zero"),
        (lambda base, folder: packed(lora(base, folder))[:-200], "cannot be unpacked"),
        (lambda base, folder: b"<html>not found</html>", "cannot be unpacked"),
        (lambda base, folder: packed(cut(lora(base, folder))), "cannot be read"),
    ],
)
def test_an_archive_that_is_not_the_adapter_is_refused(
    server: TogetherServer, case: Case, tmp_path: Path, make: Any, said: str
) -> None:
    right, server.archive = server.archive, make(case.base, tmp_path / "peft")
    with pytest.raises(InfraError, match=said):
        case.train()
    assert not case.out.exists()
    server.archive = right
    case.train(resume=True)
    assert case.out.exists() and len(server.jobs) == 1


def cut(folder: Path) -> Path:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    return folder


@pytest.mark.parametrize("kind", ["gzip", ""])
def test_other_packings_are_read_and_no_other_file_is_taken(
    server: TogetherServer, case: Case, tiny_base: Path, tmp_path: Path, kind: str
) -> None:
    folder = lora(tiny_base, tmp_path / "peft")
    (folder / "evil.py").write_text("print()")
    server.archive = packed(folder, kind, inside="../../x/")
    case.train()
    assert not list(case.out.glob("*.py")) and not (tmp_path.parent / "x").exists()
