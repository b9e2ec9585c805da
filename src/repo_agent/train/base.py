"""Which base it is: a hash of its weights, so that a link, another path or `~` is the same base, and a copy too."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from repo_agent.chat.tokenizer import locate

_PIECES, _PIECE_BYTES = 256, 2**16
"""Of a weights file that is longer than all of them (16 MiB), pieces spread evenly over it are read: no training leaves
them as they were."""
_NOT_THE_MODEL = ("_name_or_path", "transformers_version")


def base_hash(base: str) -> str | None:
    """16 hex digits that tell one base from another, of its config.json and its weights; None where they are not on
    this machine. A hub name means the snapshot that is cached here.

    Raises UserError for a path where no model is.
    """
    folder = _folder(locate(base))
    if folder is None or not (folder / "config.json").is_file():
        return None
    config = json.loads((folder / "config.json").read_bytes())
    told = hashlib.sha256(json.dumps({k: config[k] for k in sorted(config) if k not in _NOT_THE_MODEL}).encode())
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")], key=lambda path: path.name)
    for path in weights:
        told.update(f"{path.name} {path.stat().st_size} ".encode())
        _read(path, told)
    return told.hexdigest()[:16] if weights else None


def _folder(where: str) -> Path | None:
    if Path(where).is_dir():
        return Path(where)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(where, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _read(path: Path, told: hashlib._Hash) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _PIECES * _PIECE_BYTES:
            told.update(file.read())
            return
        for piece in range(_PIECES):
            file.seek(piece * (size - _PIECE_BYTES) // (_PIECES - 1))
            told.update(file.read(_PIECE_BYTES))
