"""Which base it is: a hash of its weights, so that a link, another path or `~` is the same base, and a copy too."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

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
    config = _config(folder) if folder else None
    if folder is None or config is None:
        return None
    sha = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")], key=lambda path: path.name)
    for path in weights:
        sha.update(f"{path.name} {path.stat().st_size} ".encode())
        _read(path, sha)
    return sha.hexdigest()[:16] if weights else None


def _folder(where: str) -> Path | None:
    if Path(where).is_dir():
        return Path(where)
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:  # without the extra `local` there is no cache either
        return None
    config = try_to_load_from_cache(where, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        config = json.loads((folder / "config.json").read_bytes())
        return {key: config[key] for key in config if key not in _NOT_THE_MODEL}
    except (OSError, ValueError, TypeError):
        return None


def _read(path: Path, sha: hashlib._Hash) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _PIECES * _PIECE_BYTES:
            sha.update(file.read())
            return
        for piece in range(_PIECES):
            file.seek(piece * (size - _PIECE_BYTES) // (_PIECES - 1))
            sha.update(file.read(_PIECE_BYTES))
