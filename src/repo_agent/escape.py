"""How text of others is written where it could mean something else: on a terminal, in JSON for one, in Markdown; and
what a task may be called. The text comes from models, servers, traces and suite files.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 but newline and tab, DEL, C1, marks that turn the direction of writing, and halves of UTF-16 pairs."""
_MARKUP = re.compile(r"[\\`*\[\]<>&|~$]|(?<!\w)_|_(?!\w)|^[-+#=]|^\d+(?=[.)])|(?<=:)/(?=/)|(?<=www)\.")
"""Not `_` inside a word nor `-` inside a line, which mean nothing there."""
_HTML = "<>&|"
MAX_NAME = 200


def visible(text: str) -> str:
    """`text` for a terminal: what would move the cursor, turn the text or be sent as a command is shown as `\\x1b`."""
    return _UNSEEN.sub(lambda found: _named(ord(found[0])), text)


def visible_json(value: Any) -> str:
    """`value` as JSON in one line, readable, with the same characters as JSON's own escapes."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def markdown(text: str) -> str:
    """`text` as plain words of one line of Markdown, in a table too: no markup, no HTML, no link, no line break."""
    return _MARKUP.sub(lambda found: _literal(found[0]), " ".join(visible(text).split()))


def name_fault(name: str) -> str | None:
    """Why a task, or a group of tasks, may not have this name, or None."""
    if not 0 < len(name) <= MAX_NAME:
        return f"it has {len(name):,} characters, and 1 to {MAX_NAME} are allowed"
    return None if name.isprintable() else "it has characters that cannot be seen, such as a line break"


def fit_name(name: str) -> str:
    """`name` where a task may have it, else the closest that it may have, different for different names."""
    if name_fault(name) is None:
        return name
    seen = "".join(one if one.isprintable() else "-" for one in name[: MAX_NAME - 9])
    return f"{seen}-{hashlib.sha256(name.encode(errors='surrogatepass')).hexdigest()[:8]}"


def _literal(found: str) -> str:
    if found.isdigit():
        return f"{found}\\"  # a number at the start of a line is a list: "1." becomes "1\."
    return f"&#{ord(found)};" if found in _HTML else f"\\{found}"


def _named(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
