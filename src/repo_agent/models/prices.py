"""What a model's tokens cost: prices.toml beside this file, or the user's own figures."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from repo_agent.errors import UserError
from repo_agent.models.resolve import PRESETS

TABLE = Path(__file__).with_name("prices.toml")


@dataclass(frozen=True, slots=True)
class Prices:
    """USD per million tokens."""

    input: float
    output: float

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """USD."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


def find_prices(spec: str, price_in: float | None, price_out: float | None) -> Prices | None:
    """The prices given, else those of the table for the model `spec` (`openai:NAME@URL`), else None.

    Raises UserError where one of the two is given alone, and for a table that cannot be read.
    """
    if price_in is not None and price_out is not None:
        return Prices(price_in, price_out)
    if price_in is not None or price_out is not None:
        raise UserError("one goes with the other", "--price-in, --price-out", "Give both, in USD per million tokens")
    kind, _, rest = spec.partition(":")
    name, _, url = rest.partition("@")
    entry = _table().get(urlsplit(url or PRESETS.get(kind, "")).hostname or "", {}).get(name)
    return Prices(*entry) if entry else None


def _table() -> dict[str, dict[str, tuple[float, float]]]:
    try:
        table = tomllib.loads(TABLE.read_text(encoding="utf-8"))
        return {
            host: {name: (float(cost[0]), float(cost[1])) for name, cost in models.items()}
            for host, models in table.items()
        }
    except (OSError, ValueError, AttributeError, TypeError, LookupError) as error:
        remedy = 'Its lines read "MODEL" = [INPUT, OUTPUT], below a ["HOST"]'
        raise UserError(f"is no price table ({error})", str(TABLE), remedy) from error
