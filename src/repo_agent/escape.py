"""How text of others is written where it could mean something else: on a terminal, in JSON for a terminal, in Markdown.

The text comes from models, servers, traces and suite files. Nothing here changes what is stored.
"""

from __future__ import annotations

import json
import re
from typing import Any

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 but newline and tab, DEL, C1, marks that turn the direction of writing, and halves of UTF-16 pairs."""
_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+!|~$&-])")


def visible(text: str) -> str:
    """`text` for a terminal: what would move the cursor, turn the text or be sent as a command is shown as `\\x1b`."""
    return _UNSEEN.sub(lambda found: _named(ord(found[0])), text)


def visible_json(value: Any) -> str:
    """`value` as JSON in one line, readable, with the same characters as JSON's own escapes."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def markdown(text: str) -> str:
    """`text` as plain words of one line of Markdown, in a table too: no markup, no HTML, no line break."""
    line = " ".join(visible(text).split())
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};" if found[0] in "<>&|" else f"\\{found[0]}", line)


def _named(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
