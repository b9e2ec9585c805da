"""Bodies of requests and replies, read on a copy: without their compression, within a limit."""

from __future__ import annotations

import json
import zlib
from typing import Any

MAX_BODY = 64 * 2**20
"""Bytes of a body that are read, unpacked: few compressed ones can make very many."""
_PACKED = frozenset({"gzip", "x-gzip", "deflate"})


def decoded(body: bytes, encoding: str) -> bytes:
    """A body without its compression. Raises ValueError for an unknown or broken one, and for one that is too large."""
    encoding = encoding.strip().lower()
    if encoding not in ("", "identity", *_PACKED):
        raise ValueError(f"compressed as {encoding}")
    plain = body if encoding not in _PACKED else _unpacked(body, encoding)
    if len(plain) > MAX_BODY:
        raise ValueError(f"over {MAX_BODY >> 20} MiB")
    return plain


def _unpacked(body: bytes, encoding: str) -> bytes:
    pieces: list[bytes] = []
    room = MAX_BODY + 1
    while body and room > 0:
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32)
        try:
            pieces.append(unpacker.decompress(body, room))
        except zlib.error as error:
            raise ValueError(f"broken {encoding}") from error
        room -= len(pieces[-1])
        if room > 0 and not unpacker.eof:
            raise ValueError(f"broken {encoding}")
        body = unpacker.unused_data
    return b"".join(pieces)


def object_of(body: bytes) -> dict[str, Any]:
    """The JSON object that a body is; an empty one where it is none."""
    try:
        record = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
