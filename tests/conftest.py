"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
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
