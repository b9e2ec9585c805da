"""A server on loopback that speaks as Together does, in the answers of the SDK's own types.

    with TogetherServer(tokenizer, archive) as server:
        os.environ["TOGETHER_BASE_URL"] = server.url

Rows are rendered by `apply_chat_template` and masked by the offsets of the printed text: nothing of ours is used.
`faults` holds, for a route such as "POST /v1/fine-tunes", what its next requests meet, in order: a status; "drop" (the
connection ends); ("after", what): the work is done first; "hang": no answer until `release` is set; "ok": nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import tempfile
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import datasets
import pyarrow
import pyarrow.parquet
from together.types import (
    FileResponse,
    FinetuneModelLimits,
    FineTunePreviewResponse,
    FineTuneTokenizedDatasetRetrieveResponse,
    FineTuningCancelResponse,
    FineTuningListCheckpointsResponse,
    FineTuningListEventsResponse,
    FineTuningListMetricsResponse,
    FineTuningListResponse,
)
from together.types.file_response import ValidationReport
from together.types.fine_tune_preview_row import FineTunePreviewRow
from together.types.fine_tuning_estimate_price_response import AvailableEstimate, UnavailableEstimate
from together.types.fine_tuning_list_checkpoints_response import Data as Checkpoint
from together.types.fine_tuning_list_response import Data as ListedJob
from together.types.finetune_event import FinetuneEvent
from together.types.finetune_model_limits import LoraTraining
from together.types.finetune_response import FinetuneResponse

START = datetime(2026, 11, 27, 12, tzinfo=UTC)
LIMITS = FinetuneModelLimits(
    default_gradient_accumulation_steps=1, max_learning_rate=0.01, max_num_checkpoints=10, max_num_epochs=20,
    max_num_evals=100, max_seq_length_dpo=4096, max_seq_length_sft=8192, merge_output_lora=True,
    min_learning_rate=1e-8, min_max_seq_length=64, model_name="any", supports_full_training=False,
    supports_reasoning=False, supports_tools=True, supports_vision=False,
    lora_training=LoraTraining(default_rank=64, max_batch_size=32, max_batch_size_dpo=16, max_rank=64,
                               min_batch_size=8, target_modules=["q_proj", "v_proj"]),
)  # fmt: skip


def event(kind: str, second: int, message: str = "", **more: Any) -> FinetuneEvent:
    when = (START + timedelta(seconds=second)).isoformat()
    return FinetuneEvent.construct(created_at=when, message=message or kind, object="fine-tune-event", type=kind,
                                   **more)  # fmt: skip


def metric(step: int, loss: float) -> dict[str, float]:
    return {"train/global_step": step, "train/loss": loss, "train/learning_rate": 1e-4}


@dataclass
class TogetherServer:
    """Runs in threads of its own."""

    tokenizer: Any
    archive: bytes = b""
    files: list[str] = field(default_factory=lambda: ["PENDING", "QUEUED", "RUNNING", "COMPLETED"])
    """A file's processing_status, look by look; the last stays. So with `states`, a job's status."""
    states: list[str] = field(
        default_factory=lambda: "pending queued running running compressing uploading completed".split()
    )
    report: dict[str, Any] = field(default_factory=dict)
    """What the validation report says otherwise."""
    estimate: Any = field(
        default_factory=lambda: AvailableEstimate(
            estimation_available=True, allowed_to_proceed=True, estimated_total_price=1.25, user_limit=50.0
        )
    )
    mask: str = ""
    """What this server masks or renders otherwise: see `_preview_row`."""
    stored: Any = "arrow"
    """The form of what a job has tokenised of pairs, see `tokenised`; bytes: these; None: it is not there."""
    events: list[list[FinetuneEvent]] = field(
        default_factory=lambda: [
            [],
            [event("job_start", 1)],
            [event("job_start", 1), event("training_start", 2, total_steps=3)],
            [event("job_start", 1), event("training_start", 2, total_steps=3), event("training_complete", 62)],
        ]
    )
    """All events so far of a job, look by look; so with `metrics`."""
    metrics: list[list[dict[str, float]]] = field(
        default_factory=lambda: [[], [], [metric(1, 2.0)], [metric(1, 2.0), metric(2, 1.5), metric(3, 1.0)]]
    )
    faults: dict[str, list[Any]] = field(default_factory=dict)
    requests: list[tuple[str, Any]] = field(default_factory=list)
    """Every request: its route, and its JSON body or {}."""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    hidden: int = 0
    """How many lists of jobs leave out those that there are."""
    key: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    """Route → the key that the last request for it held."""
    release: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)
    """Set when a request hangs."""
    url: str = ""

    def __enter__(self) -> TogetherServer:
        self._stored: dict[str, bytes] = {}
        self._sums: dict[str, str] = {}
        self._looks: dict[str, int] = {}
        self._lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"server_of_ours": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()

    def asked(self, route: str) -> int:
        return sum(name == route for name, _ in self.requests)

    def bodies(self, route: str) -> list[Any]:
        return [body for name, body in self.requests if name == route]

    def content(self, name: str) -> bytes:
        """Of a file that is here."""
        return self._stored[name]

    def uploaded(self) -> list[dict[str, Any]]:
        """The rows of the one file that is here."""
        (data,) = self._stored.values()
        return [json.loads(line) for line in data.decode().splitlines()]

    # --- what it answers

    def look(self, what: str, steps: list[Any]) -> Any:
        with self._lock:
            number = self._looks.get(what, 0)
            self._looks[what] = number + 1
        return steps[min(number, len(steps) - 1)]

    def new_file(self, form: dict[str, str]) -> str | None:
        """The new file's id; None where the same content is here already."""
        with self._lock:
            known = {self._sums[name]: name for name in self._stored}
            if form["checksum"] in known:
                return None
            name = f"file-{len(self._sums) + 1}"
            self._sums[name] = form["checksum"]
            return name

    def same_file(self, checksum: str) -> str:
        return next(name for name in self._stored if self._sums[name] == checksum)

    def store(self, name: str, data: bytes) -> None:
        assert hashlib.sha256(data).hexdigest() == self._sums[name] or len(self._sums[name]) != 64
        self._stored[name] = data

    def file(self, name: str, status: str | None = None) -> Any:
        lines = self._stored[name].decode().splitlines()
        rows = [json.loads(line) for line in lines]
        weights = all("weight" in message for row in rows for message in row.get("messages", [{}]))
        made = {"valid": True, "dataset_format": "CONVERSATION", "dataset_has_message_weights": weights,
                "nlines": len(lines)}  # fmt: skip
        done = status in ("COMPLETED", "FAILED", "INVALID_FORMAT")
        report = ValidationReport.construct(**(made | self.report)) if done else None
        return FileResponse.construct(
            id=name, bytes=len(self._stored[name]), created_at=0, filename="train.jsonl", FileType="jsonl",
            object="file", purpose="fine-tune", processing_status=status, validation_report=report,
        )  # fmt: skip

    def preview(self, body: dict[str, Any]) -> Any:
        lines = self._stored[body["training_file"]].decode().splitlines()[: body["top_k"]]
        return FineTunePreviewResponse(
            dataset_format="conversation", max_seq_length=8192, model=body["model"], train_on_inputs=True,
            rows=[self._preview_row(json.loads(line)) for line in lines],
        )  # fmt: skip

    def tokenised(self, job: str) -> bytes:
        """The pairs of a job's file as token ids: a dataset as `datasets` saves it, in a packed tar."""
        if isinstance(self.stored, bytes):
            return self.stored
        lines = self._stored[self.jobs[job]["training_file"]].decode().splitlines()
        rows = [self._pair(json.loads(line)) for line in lines]
        rows = rows[::-1][:100]  # a sample, in an order of its own
        with tempfile.TemporaryDirectory() as folder:
            inside = Path(folder) / "train_dataset"
            inside.mkdir()
            if self.stored == "jsonl":
                (inside / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            elif self.stored == "parquet":
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), inside / "train.parquet")
            else:
                datasets.Dataset.from_list(rows).save_to_disk(inside)
            plain = io.BytesIO()
            with tarfile.open(fileobj=plain, mode="w") as tar:
                tar.add(inside, "train_dataset")
        return bytes(pyarrow.compress(plain.getvalue(), "zstd", asbytes=True))

    def _pair(self, row: dict[str, Any]) -> dict[str, Any]:
        """A pair in the columns of `stored`; `_preview_row` renders and masks each turn with its context."""
        made = {}
        for name, said in (("chosen", row["preferred_output"]), ("rejected", row["non_preferred_output"])):
            messages = [
                *({**one, "weight": 0} for one in row["input"]["messages"]),
                *({**one, "weight": 1} for one in said),
            ]
            made[name] = self._preview_row({**row["input"], "messages": messages})
        if self.mask == "swapped":
            made = {"chosen": made["rejected"], "rejected": made["chosen"]}
        if self.stored == "one column":
            return {"input_ids": [*made["chosen"].input_ids, *made["rejected"].input_ids], "length": 2}
        if self.stored == "prompt":
            start = next(at for at, label in enumerate(made["chosen"].labels) if label != -100)
            return {"prompt_ids": made["chosen"].input_ids[:start],
                    **{f"{name}_ids": one.input_ids[start:] for name, one in made.items()}}  # fmt: skip
        if self.stored == "nested":
            names = {"chosen": "preferred_output", "rejected": "non_preferred_output"}
            return {names[name]: {"input_ids": one.input_ids, "labels": one.labels} for name, one in made.items()}
        found = {}
        for name, one in made.items():
            pad = 3 if name == "chosen" else 0
            found[f"{name}_input_ids"] = one.input_ids + [0] * pad
            found[f"{name}_labels"] = one.labels + [-100] * pad
            found[f"{name}_attention_mask"] = [1] * len(one.input_ids) + [0] * pad
        return found

    def _preview_row(self, row: dict[str, Any]) -> FineTunePreviewRow:
        messages = [dict(message) for message in row["messages"]]
        for message in messages:
            for call in message.get("tool_calls", ()):
                call["function"] = call["function"] | {"arguments": json.loads(call["function"]["arguments"])}
        if self.mask == "strips":
            messages = [message | {"content": message["content"].strip()} for message in messages]
        if self.mask == "default system":
            messages = [{"role": "system", "content": "You are helpful.", "weight": 0}, *messages[1:]]

        def text(count: int, generate: bool = False) -> str:
            return str(self.tokenizer.apply_chat_template(
                messages[:count], tools=row.get("tools"), tokenize=False, add_generation_prompt=generate
            ))  # fmt: skip

        whole = text(len(messages))
        spans = []
        for at, message in enumerate(messages):
            weight = 1 if self.mask == "every reply" and message["role"] == "assistant" else message["weight"]
            if weight or self.mask == "everything":
                before = len(text(at)) if at else 0
                start = len(text(at, True)) if message["role"] == "assistant" else before
                end = len(text(at + 1).rstrip("\n"))
                end -= len(self.tokenizer.eos_token) if self.mask == "no end token" else 0
                spans.append((before if self.mask == "headers" else start, end))
        made = self.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
        ids = made["input_ids"]
        labels = [
            token if any(start <= begin and end <= stop for start, stop in spans) else -100
            for token, (begin, end) in zip(ids, made["offset_mapping"], strict=True)
        ]
        if self.mask == "goes on":
            more = self.tokenizer(" and so on", add_special_tokens=False)["input_ids"]
            ids, labels = ids + more, labels + [-100] * len(more)
        if self.mask == "cuts":
            ids, labels = ids[:20], labels[:20]
        trained = sum(label != -100 for label in labels)
        return FineTunePreviewRow(input_ids=ids, labels=labels, num_tokens=len(ids), num_trained_tokens=trained,
                                  tokens=[self.tokenizer.decode([token]) for token in ids], trained_spans=[],
                                  truncated=self.mask == "cuts")  # fmt: skip

    def create(self, body: dict[str, Any]) -> Any:
        begin = body.get("from_checkpoint")
        if bool(begin) == bool(body.get("model")) or (begin and begin not in self.jobs):
            return 400, {}, b'{"error": {"message": "a model, or a checkpoint of yours"}}'
        with self._lock:
            name = f"ft-{len(self.jobs) + 1}"
            self.jobs[name] = body
        return self.listed(name, "pending")

    def listed(self, name: str, status: str) -> ListedJob:
        body = self.jobs[name]
        return ListedJob.construct(
            id=name, created_at=START, updated_at=START, status=status, user_id="u", suffix=body.get("suffix"),
            model=body.get("model"), training_type=body.get("training_type"), training_file=body["training_file"],
            x_model_output_name=f"me/tuned-{body.get('suffix')}", from_checkpoint=body.get("from_checkpoint"),
        )  # fmt: skip

    def job(self, name: str) -> FinetuneResponse:
        status = self.jobs[name].get("forced") or self.look(f"states {name}", self.states)
        price = 1_310_000_000 if status == "completed" else None
        return FinetuneResponse.construct(id=name, status=status, user_id="u", total_steps=3, total_price=price)

    def route(self, method: str, path: str, body: Any, query: dict[str, list[str]]) -> Any:
        """The answer: one of the SDK's types, (status, headers), bytes, or None where there is no such thing."""
        if (method, path) == ("POST", "/v1/files"):
            name = self.new_file(body)
            if name is None:
                return 409, {}, json.dumps({"file_id": self.same_file(body["checksum"])}).encode()
            return 302, {"Location": f"{self.url}/upload/{name}", "X-Together-File-Id": name}, b""
        if found := re.fullmatch(r"/(upload|moved)/(file-\d+)", path):
            if found[1] == "upload":
                return 307, {"Location": f"{self.url}/moved/{found[2]}"}, b""
            self.store(found[2], body)
            return 200, {}, b""
        if found := re.fullmatch(r"/v1/files/(file-\d+)(/preprocess)?", path):
            return self.file(found[1], "PENDING" if found[2] else self.look(found[1], self.files))
        simple = {
            "GET /v1/fine-tunes/models/limits": lambda: LIMITS,
            "POST /v1/fine-tunes/preview": lambda: self.preview(body),
            "POST /v1/fine-tunes/estimate-price": lambda: self.estimate,
            "POST /v1/fine-tunes": lambda: self.create(body),
            "GET /v1/fine-tunes": self._list,
            "GET /v1/finetune/download": lambda: (302, {"Location": f"{self.url}/storage/{query['ft_id'][0]}"}, b""),
        }
        if f"{method} {path}" in simple:
            return simple[f"{method} {path}"]()
        if path.startswith("/tokenised/"):
            return 200, {"Content-Type": "application/zstd"}, self.tokenised(path.split("/")[-1])
        if path.startswith("/storage/"):
            return 200, {"Content-Type": "application/octet-stream"}, self.archive
        found = re.fullmatch(r"/v1/fine-tunes/(ft-\d+)(/[\w-]+)?", path)
        return self._of_job(found[1], found[2] or "") if found and found[1] in self.jobs else None

    def _of_job(self, name: str, what: str) -> Any:
        if what == "/events":
            return FineTuningListEventsResponse.construct(data=self.look(f"events {name}", self.events))
        if what == "/metrics":
            return FineTuningListMetricsResponse(metrics=self.look(f"metrics {name}", self.metrics) or None)
        if what == "/checkpoints":
            one = Checkpoint(checkpoint_type="Final", created_at="now", path="s3://x", step=3, checkpoint="adapter")
            return FineTuningListCheckpointsResponse(data=[one])
        if what == "/download-tokenized-dataset":
            return self.stored and FineTuneTokenizedDatasetRetrieveResponse(
                url=f"{self.url}/tokenised/{name}", size=1, filename="tokenized-datasets.tar.zst",
                content_type="application/zstd", expires_at=START,
            )  # fmt: skip
        if what == "/cancel":
            self.jobs[name]["forced"] = "cancelled"
            return FineTuningCancelResponse.construct(**self.listed(name, "cancel_requested").to_dict())
        return self.job(name)

    def _list(self) -> FineTuningListResponse:
        with self._lock:
            self.hidden, hide = max(self.hidden - 1, 0), self.hidden > 0
        names = [] if hide else list(self.jobs)
        return FineTuningListResponse.construct(data=[self.listed(name, "pending") for name in names])


class _Handler(BaseHTTPRequestHandler):
    server_of_ours: TogetherServer
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        ours, address = self.server_of_ours, urlsplit(self.path)
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        ours.key = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        kind = self.headers.get("Content-Type") or ""
        body: Any = json.loads(data) if "json" in kind and data else data
        if "form" in kind:
            body = _form(kind, data)
        route = f"{self.command} {re.sub(r'/(file|ft)-[0-9]+', '/ID', address.path)}"
        ours.keys[route] = ours.key
        ours.requests.append((route, {} if isinstance(body, bytes) else body))
        waiting = ours.faults.get(route) or []
        fault = waiting.pop(0) if waiting else "ok"
        after = isinstance(fault, tuple)
        made = None if fault != "ok" and not after else ours.route(self.command, address.path, body, _query(address))
        fault = fault[1] if after else fault
        if fault == "hang":
            ours.reached.set()
            ours.release.wait(120)
            self.close_connection = True
        elif fault == "drop":
            self.close_connection = True
        elif fault == "half":
            self._send(200, {}, ours.archive, cut=True)
        elif isinstance(fault, int):
            error = {"error": {"message": f"told to fail, key {ours.key}"}}
            self._send(fault, {"Retry-After-Ms": "20"}, json.dumps(error).encode())
        elif isinstance(made, tuple):
            self._send(*made)
        elif made is None:
            self._send(404, {}, b'{"error": {"message": "no such thing"}}')
        else:
            self._send(200, {}, made.to_json(use_api_names=True, warnings=False).encode())

    def _send(self, status: int, headers: dict[str, str], data: bytes, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = self.close_connection or cut

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, *_: object) -> None:
        pass


def _query(address: Any) -> dict[str, list[str]]:
    return parse_qs(address.query)


def _form(kind: str, data: bytes) -> dict[str, str]:
    """The fields of a form."""
    if "boundary=" not in kind:
        return {key: values[0] for key, values in parse_qs(data.decode()).items()}
    parts = data.split(b"--" + kind.partition("boundary=")[2].encode())
    found = (re.search(rb'name="(\w+)".*?\r\n\r\n(.*)\r\n', part, re.DOTALL) for part in parts)
    return {one[1].decode(): one[2].decode() for one in found if one}


UNAVAILABLE = UnavailableEstimate(estimation_available=False, unavailable_reason="train_file_not_validated")
