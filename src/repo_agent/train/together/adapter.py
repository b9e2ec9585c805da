"""The archive that Together makes of a LoRA, unpacked into an adapter directory as local training writes it."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from repo_agent.errors import InfraError, UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_ZSTD, _GZIP = b"\x28\xb5\x2f\xfd", b"\x1f\x8b"
_MOST_BYTES = 20 * 2**30
"""An adapter that says it is larger is none."""


def unpack(archive: Path, folder: Path, wanted: dict[str, int], base: str) -> None:
    """Write adapter_config.json and adapter_model.safetensors into `folder`; no other file of the archive is taken.

    `wanted` (r, lora_alpha) is what the job was asked for. Raises InfraError for an archive without these files, and
    for an adapter of another rank or one that was never trained.
    """
    found = _files(archive, folder)
    if missing := [name for name in (CONFIG, WEIGHTS) if name not in found]:
        raise InfraError("download", f"{archive.name} holds no {' and no '.join(missing)}")
    try:
        config = json.loads((folder / CONFIG).read_bytes())
        other = {key: config.get(key) for key, value in wanted.items() if config.get(key) != value}
    except (ValueError, AttributeError) as error:
        raise InfraError("download", f"{CONFIG} cannot be read ({error})") from error
    if other:
        said = ", ".join(f"{key} {value}, asked for {wanted[key]}" for key, value in other.items())
        raise InfraError("download", f"the adapter is not the one that was ordered: {said}")
    check_weights(folder / WEIGHTS, wanted["r"])
    config["base_model_name_or_path"] = base
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def check_weights(path: Path, rank: int) -> None:
    """Raise InfraError for weights that are no LoRA of this rank in PEFT's names, or that change nothing.

    PEFT starts the B matrices at zero: where all of them still are, nothing was trained.
    """
    with path.open("rb") as file:
        header = _header(file, path.stat().st_size)
        start = file.tell()
        shapes = {name: entry["shape"] for name, entry in header.items() if ".lora_A." in name}
        ends = {name: entry["data_offsets"] for name, entry in header.items() if ".lora_B." in name}
        if not shapes or not ends:
            raise InfraError("download", f"{path.name} holds no LoRA weights in PEFT's names")
        if odd := [name for name, shape in shapes.items() if shape[0] != rank]:
            raise InfraError("download", f"{odd[0]} has rank {shapes[odd[0]][0]}, asked for {rank}")
        for begin, end in ends.values():
            file.seek(start + begin)
            if any(file.read(end - begin)):
                return
    raise InfraError("download", "every lora_B is zero: the adapter changes nothing")


def _header(file: IO[bytes], size: int) -> dict[str, Any]:
    """A safetensors file's header: tensor → dtype, shape, data_offsets. The file stands where the data begins."""
    try:
        length = int.from_bytes(file.read(8), "little")
        if length > size:
            raise ValueError("its header is longer than the file")
        header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        if max((entry["data_offsets"][1] for entry in header.values()), default=0) != size - 8 - length:
            raise ValueError("it was cut off")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InfraError("download", f"{WEIGHTS} cannot be read ({error})") from error
    return header


def _files(archive: Path, folder: Path) -> set[str]:
    """Take the two files out, whatever folder of the archive they are in."""
    found: set[str] = set()
    try:
        with opened(archive) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
            for member in tar:
                name = Path(member.name).name
                if not member.isfile() or name not in (CONFIG, WEIGHTS):
                    continue
                if name in found or member.size > _MOST_BYTES:
                    raise InfraError("download", f"{archive.name} is no adapter: {member.name} ({member.size} bytes)")
                source = tar.extractfile(member)
                assert source is not None
                with (folder / name).open("wb") as file:
                    shutil.copyfileobj(source, file)
                found.add(name)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InfraError("download", f"{archive.name} cannot be unpacked ({error})") from error
    return found


@contextmanager
def opened(archive: Path) -> Iterator[IO[bytes]]:
    """The tar inside: Together packs with zstd or gzip."""
    with archive.open("rb") as file:
        kind = file.read(4)
    if kind != _ZSTD and kind[:2] != _GZIP:
        with archive.open("rb") as file:
            yield file
        return
    try:
        import pyarrow
    except ImportError as error:
        raise UserError("pyarrow is not installed", str(archive), "pip install 'repo-agent[together]'") from error
    with pyarrow.CompressedInputStream(str(archive), "zstd" if kind == _ZSTD else "gzip") as stream:
        yield io.BufferedReader(stream)
