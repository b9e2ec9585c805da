"""The tiny base model's tokenizer: byte-level BPE behind Qwen2's own pre-tokenizer, with ChatML tokens.

Merges are learnt on runs of letters alone, so a name has the same pieces after a space, a slash or a quote, and copying
it from a listing into a path is a plain copy of tokens. Frequent words with their leading character come last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') -}}"
    "{%- if loop.first and tools -%}{{- '\\n' + (tools | tojson) -}}{%- endif -%}"
    "{%- for call in message.tool_calls or [] -%}"
    "{{- '<tool_call>' + (call.function | tojson) + '</tool_call>' -}}"
    "{%- endfor -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
_ISOLATED = r"\p{L}+|\p{N}|\\|[^\s\p{L}\p{N}\\]+| +|\s"


def build_tokenizer(texts: Iterable[str], letter_merges: int = 320, word_merges: int = 220) -> Any:
    """Learn a tokenizer from sample transcripts; returns a transformers Qwen2Tokenizer."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    texts = list(texts)
    learner = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(_ISOLATED), "isolated")
    learner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + letter_merges, initial_alphabet=alphabet, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in _merges(learner)]
    vocab = [*alphabet, *("".join(pair) for pair in merges)]
    probe = Qwen2Tokenizer(vocab={token: number for number, token in enumerate(vocab)}, merges=merges)
    merges += _word_merges(texts, probe.backend_tokenizer.pre_tokenizer, merges, word_merges)
    tokens = list(dict.fromkeys([*SPECIALS, *alphabet, *("".join(pair) for pair in merges)]))
    tokenizer = Qwen2Tokenizer(
        vocab={token: number for number, token in enumerate(tokens)},
        merges=merges,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _merges(learner: Any) -> list[list[str]]:
    import json

    merges = json.loads(learner.to_str())["model"]["merges"]
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]


def _word_merges(
    texts: list[str], pre_tokenizer: Any, merges: list[tuple[str, ...]], count: int
) -> list[tuple[str, str]]:
    """Merges that make the most frequent pre-tokens single tokens, each after its pieces are whole."""
    seen: Counter[str] = Counter(piece for text in texts for piece, _ in pre_tokenizer.pre_tokenize_str(text))
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    added: list[tuple[str, str]] = []
    for word, _ in seen.most_common(count):
        prefix, letters = (word[0], word[1:]) if not word[0].isalpha() or word[0] == "Ġ" else ("", word)
        if len(letters) < 2 or not letters.isascii() or not letters.isalpha():
            continue
        pieces = _apply(letters, ranks)
        while len(pieces) > 1:
            added.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
        if prefix:
            added.append((prefix, letters))
        ranks |= {pair: len(ranks) for pair in added if pair not in ranks}
    return list(dict.fromkeys(added))


def _apply(word: str, ranks: dict[tuple[str, ...], int]) -> list[str]:
    """The pieces that BPE makes of a run of letters."""
    pieces = list(word)
    while len(pieces) > 1:
        pairs = list(pairwise(pieces))
        rank, at = min((ranks.get(pair, len(ranks)), index) for index, pair in enumerate(pairs))
        if rank == len(ranks):
            break
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces
