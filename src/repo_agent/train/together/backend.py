"""Backend `together`: a LoRA fine-tuning job at Together, from a dataset directory to an adapter directory.

    prepare → upload → validated → previewed → priced and allowed → created once → followed → downloaded

After each arrow `job.JobFolder` has it on record, so a run that was killed anywhere is resumed without a
second job. Preference pairs cannot be previewed: what became of them is compared while the job is followed. Not
covered: a validation file.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repo_agent.chat.render import Renderer
from repo_agent.chat.tokenizer import load_tokenizer
from repo_agent.data.dataset import Dataset, line_of, sha256_of
from repo_agent.data.pair_set import PairSet
from repo_agent.errors import InfraError, UserError
from repo_agent.train.config import TrainConfig
from repo_agent.train.prepare import read_data, remarks
from repo_agent.train.presets import Size, resolve
from repo_agent.train.record import OnStep, RunRecord, Say, read_record
from repo_agent.train.sizes import parameters_of
from repo_agent.train.start import Start, begun, job_of, start_of
from repo_agent.train.together.client import Client
from repo_agent.train.together.create import create, find, request_of
from repo_agent.train.together.follow import Follower
from repo_agent.train.together.job import UPLOAD, Job, JobFolder, differing, new_suffix
from repo_agent.train.together.preview import compare, refuse
from repo_agent.train.together.price import Ask, approve
from repo_agent.train.together.result import Source, fetch, is_of
from repo_agent.train.together.rows import PREVIEWED, Upload, upload_of
from repo_agent.train.together.tokenised import Check

_VALIDATION_LOOKS = 2000


def train_together(
    dataset_dir: Path,
    out: Path,
    config: TrainConfig,
    on_step: OnStep | None = None,
    *,
    resume: bool = False,
    ask: Ask | None = None,
    say: Say = lambda line: None,
) -> RunRecord:
    """Train a LoRA at Together; writes `out`: adapter, run_record.json, together.json.

    Raises UserError where something is wrong before a job is created, where its price is unknown, too high or not
    allowed, where nobody agrees to it, and where `out` exists or a job for it is under way and `resume` is off.
    Whatever ends it early, `resume` continues.
    """
    refuse_method(config)
    folder = JobFolder(out)
    if out.exists():
        if resume and folder.exists and is_of(out, folder.read()):  # killed when nothing was left to do but this
            folder.remove()
            return read_record(out)
        raise UserError("already exists", str(out), "Choose another --out, or remove it")
    if folder.exists and not resume:
        remedy = "Add --resume to continue it, or --cancel to end it"
        raise UserError("a job for this adapter is under way", str(folder.path), remedy)
    dataset = read_data(dataset_dir, config)
    for line in remarks(dataset):
        say(line)
    renderer = Renderer(load_tokenizer(config.base), dataset.contract.printed_tools)
    upload = upload_of(dataset, renderer, config.max_length)
    start = start_of(config, dataset.record["contract"], upload.tasks)
    client = Client()  # before a folder is made, since it may lack a key
    with folder.held():
        run = _Run(dataset, out, begun(config, start), folder, renderer, upload, client, ask, say, start)
        run.prepare()
        run.upload_file()
        run.validate()
        run.preview()
        run.approve()
        run.create()
        follower = Follower(run.client, folder, run.job, on_step, say, run.check())
        last = follower.follow(config.together.poll_seconds)
        run.job.stage = "completed"
        folder.save(run.job)
        source = Source(dataset, renderer, upload, run.config, start, run.model)
        return fetch(run.client, folder, run.job, source, follower, last, out)


def refuse_method(config: TrainConfig) -> None:
    """Raise UserError for what Together does not do, and for what cannot be compared before it is billed where nobody
    has agreed to that."""
    if config.method == "grpo":
        what = "replies are drawn and graded here, from weights that change at every step"
        raise UserError(what, "--backend together --method grpo", "Train on this machine")
    if config.method == "dpo" and not config.together.accept_unchecked:
        what = "Together shows what it makes of pairs only once a job runs, and is billed: a difference then cancels it"
        remedy = "Add --together-accept-unchecked if that is enough, or train on this machine"
        raise UserError(what, "--backend together --method dpo", remedy)


def cancel_together(out: Path) -> str:
    """End the job of an adapter directory that is not there yet; returns what Together says of it."""
    folder = JobFolder(out)
    if not folder.exists:
        raise UserError("no job is under way", str(folder.path), "Is --out the same as when it was started?")
    with folder.held():
        job, client = folder.read(), Client()
        if job.stage == "creating" and job.job_id is None:
            job.job_id = find(client, job)
        if job.job_id is None:
            return "no job was created"
        name = job.job_id
        said = client.patiently("cancel", lambda: client.api.fine_tuning.cancel(name), 1.0)
        job.status = str(said.status)
        folder.save(job)
        return f"job {name}: {said.status}"


@dataclass
class _Run:
    """One run of the command: the stages, each of which does nothing where an earlier run has done it."""

    dataset: Dataset | PairSet
    out: Path
    config: TrainConfig
    folder: JobFolder
    renderer: Renderer
    upload: Upload[Any]
    client: Client
    ask: Ask | None
    say: Say
    start: Start | None

    def __post_init__(self) -> None:
        self.pause = self.config.together.poll_seconds
        self.model = self._model()
        with self.client.asking("model limits"):
            self.limits = self.client.api.fine_tuning.model_limits(model_name=self.model)
        parameters = parameters_of(self.config.base)
        self.config = resolve(self.config, Size(parameters, len(self.upload.rows), self.upload.trained))
        self.request = request_of(self.config, self.upload, self.limits, parameters, self.say)

    def prepare(self) -> None:
        """The upload file and job.json; of a resumed run, that it goes on with the same."""
        begin = {"from_checkpoint": job_of(self.start).job} if self.start else {"model": self.model}
        settings = {**begin, "dataset": self.dataset.hash, **self.request}
        if self.folder.exists:
            self.job = self.folder.read()
            if other := differing(self.job, settings):
                what = f"was started with other settings: {', '.join(other)}"
                raise UserError(what, str(self.folder.path), "Give those settings, or another --out")
            return
        path = self.folder.path / UPLOAD
        with path.open("wb") as file:
            file.writelines(line_of(row.record) for row in self.upload.rows)
        made = {"sha256": sha256_of(path), "rows": len(self.upload.rows), "tokens": self.upload.tokens}
        self.job = Job(settings=settings, suffix=new_suffix(self.config.together.suffix, self.out), upload=made)
        self.folder.save(self.job)

    def upload_file(self) -> None:
        if self.job.reached("uploaded"):
            return
        path = self.folder.path / UPLOAD
        if sha256_of(path) != self.job.upload["sha256"]:
            raise UserError("was changed", str(path), f"Remove {self.folder.path} and start again")
        self.say(f"uploading {self.job.upload['rows']:,} rows, {self.job.upload['tokens']:,} tokens")
        # A file that is there already is found by its checksum, so this may be requested twice. The SDK would ask four
        # times before it believes the 409 that says so.
        files = self.client.once.files
        made = self.client.patiently("upload", lambda: files.upload(path, purpose="fine-tune", check=True), self.pause)
        self.job.file_id = made.id
        self._done("uploaded")

    def validate(self) -> None:
        """Wait until Together has read the file, and check what it found."""
        if self.job.reached("validated"):
            return
        name = str(self.job.file_id)
        for _ in range(_VALIDATION_LOOKS):
            found = self.client.patiently("validation", lambda: self.client.api.files.retrieve(name), self.pause)
            if found.processing_status in ("COMPLETED", "FAILED", "INVALID_FORMAT"):
                break
            time.sleep(self.pause)
        else:
            raise InfraError("validation", f"file {name} is still {found.processing_status}; go on with --resume")
        report = found.validation_report
        if found.processing_status != "COMPLETED" or (report and not report.valid):
            said = (report and report.error) or "no reason given"
            what = f"Together does not take the file: {found.processing_status}, {said}"
            raise UserError(what, str(self.folder.path / UPLOAD), "Leave such rows out of the dataset")
        rows = self.job.upload["rows"]
        if report and report.nlines not in (None, rows):
            raise InfraError("validation", f"Together reads {report.nlines} rows, the file has {rows}")
        if report and report.dataset_has_message_weights is False and self.config.method == "sft":
            raise InfraError("validation", "Together does not see the messages' weights: it would train on everything")
        self._done("validated")

    def preview(self) -> None:
        """See the module `preview`. Together previews no preference pairs."""
        if self.job.reached("previewed"):
            return
        if self.config.method == "dpo":
            self._done("previewed")
            return
        rows = min(PREVIEWED, len(self.upload.rows))
        answer = self.client.patiently(
            "preview",
            lambda: self.client.api.fine_tuning.preview(
                model=self.model, training_file=str(self.job.file_id), top_k=rows, train_on_inputs=False
            ),
            self.pause,
        )
        found = compare(self.upload, answer.rows or [], self.renderer.tokenizer)
        self.job.preview = found.to_dict()
        self.folder.save(self.job)
        refuse(found, self.config.together.accept_labels, f"{self.model} at Together")
        equal = "ids and labels equal" if not found.labels else f"ids equal, other labels in {len(found.labels)}"
        self.say(f"preview: {found.rows} rows, {found.tokens:,} tokens, {equal} here and there")
        if found.unseen:
            self.say(f"not previewed: rows of the shapes {', '.join(found.unseen)}")
        self._done("previewed")

    def approve(self) -> None:
        """See the module `price`."""
        if not self.job.reached("approved"):
            approve(self.client, self.folder, self.job, self.config.together, self.ask, self.say)
            self._done("approved")

    def create(self) -> None:
        """See the module `create`."""
        if not self.job.reached("created"):
            job_id = create(self.client, self.folder, self.job, self.request, self.limits, self.pause)
            self.say(f"created {job_id}; --resume continues, --cancel ends it")

    def check(self) -> Check | None:
        """What compares preference pairs while the job is followed."""
        if self.config.method == "sft":
            return None
        return Check(
            self.client, self.folder, self.job, self.upload, self.renderer.tokenizer, self.config.together, self.say
        )

    def _model(self) -> str:
        """The base's name at Together. Raises UserError where nothing says it, or the adapter was made on another."""
        given = self.config.together.model
        if self.start:
            model = job_of(self.start).model
            if given not in (None, model):
                raise UserError(f"the adapter was made on {model} there", "--together-model", "Leave it out")
            return model
        model = given or self.config.base
        if given is None and (Path(model).expanduser().is_dir() or "/" not in model):
            what = f"{model} is a model of this machine, and Together names its own"
            raise UserError(what, "--together-model", "Give the base's name there, as Qwen/Qwen2.5-7B-Instruct")
        return model

    def _done(self, stage: Any) -> None:
        self.job.stage = stage
        self.folder.save(self.job)
