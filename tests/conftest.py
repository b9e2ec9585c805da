"""Fixtures that several test files share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import hypothesis
import pytest

from repo_agent.agent.loop import Rollout
from repo_agent.agent.spec import AgentSpec, Limits
from repo_agent.messages import Message
from repo_agent.models import Request, Sampling
from repo_agent.models.scripted import Scripted
from repo_agent.protocols import protocol_named
from repo_agent.tools.files import default_registry
from repo_agent.traces import events
from repo_agent.traces.store import RunDir

hypothesis.settings.register_profile("quick", max_examples=25, deadline=None)
hypothesis.settings.load_profile("quick")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% for call in message.get('tool_calls', []) %}<tool_call>\n{{ call['function'] | tojson }}\n</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A limit catches hangs: what takes minutes has an hour, on a machine that does something else too."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
"""Real data that a clean clone does not have; what needs it skips."""


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a whole base model in miniature: byte-level BPE of 384 tokens, ChatML, random Qwen2 weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tiny_base")
    tokenizer = _tokenizer(transformers)
    tokenizer.save_pretrained(folder)
    config = transformers.Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    transformers.Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def legacy() -> Path:
    """The folder of real traces of the older shape."""
    folder = SHARED / "legacy_traces"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    return folder


class Listening(Scripted):
    """A scripted model that remembers the messages of each request."""

    def __init__(self, replies: Sequence[str]) -> None:
        super().__init__(replies)
        self.heard: list[tuple[Message, ...]] = []

    async def complete(self, request: Request):
        self.heard.append(request.messages)
        return await super().complete(request)


Play = Callable[..., Listening]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Play replies through the real loop over a small workspace; the trace lands in the run directory, whole."""

    def go(
        run: RunDir, task: str, replies: Sequence[str], k: int = 0, passed: bool = True, wire: str = "json"
    ) -> Listening:
        root = tmp_path / f"workspace-{len(list(tmp_path.iterdir()))}"
        (root / "src").mkdir(parents=True)
        (root / "src/app.py").write_text("def total(values):\n    return 0\n")
        registry, protocol, model = default_registry(), protocol_named(wire), Listening(replies)
        writer = run.claim(task, k)
        assert writer is not None
        spec = AgentSpec(registry, protocol, Limits(max_steps=len(replies), max_bad_turns=99))
        writer.emit(
            events.RunStart(
                task=task,
                group=task,
                task_hash="0" * 16,
                suite="play",
                rollout=k,
                arm="base",
                model="scripted",
                protocol=protocol.name,
                system=spec.system,
                tools=registry.schemas(),
                sampling={},
                seed=k,
                isolation="none",
            )
        )

        async def tests(when: str) -> events.Tests:
            shown = "2 passed" if passed else "1 failed, 1 passed"
            return events.Tests(when=when, outcome="passed", passed=2, failed=0, skipped=0, expected=2, output=shown)

        rollout = Rollout(model, spec, root, tests, writer.emit, Sampling(), k)
        ended = asyncio.run(rollout.run(f"repair {task}"))
        end = events.RunEnd(
            ended=ended, passed=passed, steps=rollout.steps, prompt_tokens=0, completion_tokens=0, seconds=0.5
        )
        writer.emit(end)
        writer.commit()
        return model

    return go


def _tokenizer(transformers):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    calls = [
        '{"type":"tool_call","name":"read_file","args":{"rel_path":"src/app.py","max_chars":4000}}',
        '{"type":"tool_call","name":"list_files","args":{"rel_dir":".","max_files":200}}',
        '{"type":"final","summary":"fixed the defect, the tests pass"}',
        "[tool_result] def add(first, second):\n    return first - second\n[tests] 1 failed, 2 passed",
        "grep pattern max_hits write_file content not_found missing_arg wrong_type unexpected_arg error",
    ]
    tokenizer.train_from_iterator(calls * 3, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.chat_template = CHATML
    return fast
