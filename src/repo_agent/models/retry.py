"""Ask again where another try may succeed: jittered exponential back-off that obeys Retry-After, bounded in all.

The SDK's own retries are off: they do not see half an answer for what it is, nor JSON that is not valid, nor a reply
without a choice, and they know no bound on the whole.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from repo_agent.errors import InfraError

_T = TypeVar("_T")
log = logging.getLogger(__name__)
"""Says at level INFO what failed and when it is tried again."""


@dataclass(frozen=True)
class Patience:
    """How long a request is tried, in seconds but for `tries`."""

    tries: int = 8
    first_wait: float = 1.0
    """Before the second try; doubled before each other one."""
    longest_wait: float = 30.0
    """The most that we wait by ourselves; a server may ask for more."""
    request_seconds: float = 600.0
    """One try, from the first byte sent to the last one read: a hang and a slow drip end alike."""
    total_seconds: float = 1800.0
    """All tries and waits together."""


class Transient(Exception):
    """One try failed in a way that another may not. `after` are the seconds that the server asked us to wait."""

    def __init__(self, cause: str, after: float | None = None) -> None:
        super().__init__(cause)
        self.after = after


async def persistently(
    attempt: Callable[[], Awaitable[_T]], patience: Patience, name: str, tried: Callable[[], object] = lambda: None
) -> _T:
    """What the first successful try returns; `tried` is called before each.

    Raises InfraError with the last cause when tries or time are spent; other exceptions pass.
    """
    end = time.monotonic() + patience.total_seconds
    for number in range(1, patience.tries + 1):
        tried()
        bound = min(patience.request_seconds, end - time.monotonic())
        try:
            async with asyncio.timeout(bound):
                return await attempt()
        except TimeoutError:
            failure = Transient(f"no whole answer within {bound:.3g} s")
        except Transient as error:
            failure = error
        pause = _pause(failure, number, patience)
        if number == patience.tries or time.monotonic() + pause >= end:
            break
        log.info("%s: %s; try %d of %d in %.0f s", name, failure, number + 1, patience.tries, pause)
        await asyncio.sleep(pause)
    raise InfraError("model", f"{name}: {failure}; gave up after {number} of {patience.tries} tries")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a Retry-After header asks for (a number, or an HTTP date), or None."""
    said = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(headers["retry-after-ms"]) / 1000 if "retry-after-ms" in headers else float(said))
    except ValueError:
        date = email.utils.parsedate_tz(said)
    return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else None


def _pause(failure: Transient, number: int, patience: Patience) -> float:
    """Never shorter than asked for; the jitter keeps those who failed together from coming back together."""
    wait = min(patience.longest_wait, patience.first_wait * 2 ** (number - 1))
    if failure.after is not None:
        return failure.after + random.uniform(0, min(wait, failure.after))
    return random.uniform(wait / 2, wait)
