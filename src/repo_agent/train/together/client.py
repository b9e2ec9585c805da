"""The Together SDK's client, and its errors as ours. No key reaches a message."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pydantic

from repo_agent.errors import InfraError, UserError
from repo_agent.keys import TOGETHER, key_for, without_key

BASE_URL = "https://api.together.ai"
_RETRIED = frozenset({408, 409, 425, 429})
_STOPS = {
    400: ("refuses the request", "Change what it names"),
    401: ("refused the key, or the account has no credit left", f"Check {TOGETHER} and the account's credit"),
    402: ("says that the account has no credit left", "Top up and run the same command with --resume"),
    403: ("does not allow this key to do that", "Is the model open to this account?"),
    404: ("knows no such model, file or job", "Is --together-model right?"),
    413: ("says that the file is too large", "Train on fewer rows"),
    422: ("refuses the request", "Change what it names"),
}
_R = TypeVar("_R")


class Unsure(InfraError):
    """The request may or may not have been carried out."""


class Busy(Unsure):
    """The request was not carried out: there were too many."""


class Client:
    """The SDK's client for the server that TOGETHER_BASE_URL names, else Together's own.

    `api` retries what may be asked twice; `once` never asks twice. Raises UserError where the SDK or the key is not
    there.
    """

    def __init__(self) -> None:
        try:
            from together import Together
        except ImportError as error:
            remedy = "pip install 'repo-agent[together]'"
            raise UserError("the Together SDK is not installed", "--backend together", remedy) from error
        self.url = (os.environ.get("TOGETHER_BASE_URL") or BASE_URL).removesuffix("/").removesuffix("/v1")
        self._key = key_for(self.url, TOGETHER)
        self.api = Together(api_key=self._key, base_url=self.url, max_retries=4)
        self.once = self.api.with_options(max_retries=0)

    @contextmanager
    def asking(self, stage: str) -> Iterator[None]:
        """What goes wrong inside the block as UserError (nothing but the user cures it), Unsure (a server or the
        network failed, so nobody knows what was done) or InfraError."""
        import httpx
        from together import APIConnectionError, APIError, APIStatusError
        from together.lib.types.error import DownloadError, FileTypeError

        try:
            yield
        except APIStatusError as error:
            raise self._status(stage, error) from None
        except (APIConnectionError, httpx.TransportError, DownloadError) as error:
            raise Unsure(stage, self._clean(f"{type(error).__name__}: {error.__cause__ or error}")) from None
        except (json.JSONDecodeError, pydantic.ValidationError) as error:
            raise Unsure(stage, self._clean(f"Together's answer cannot be read: {error}")) from None
        except (FileTypeError, ValueError) as error:
            raise UserError(self._clean(str(error)), f"--backend together ({stage})", "Change what it names") from None
        except (APIError, LookupError, AssertionError, OSError) as error:
            raise InfraError(stage, self._clean(f"{type(error).__name__}: {error}")) from None

    def patiently(self, stage: str, ask: Callable[[], _R], pause: float, tries: int = 4) -> _R:
        """What `ask` answers; where nobody knows whether it worked it is asked again, which it must allow."""
        for left in range(tries - 1, -1, -1):
            try:
                with self.asking(stage):
                    return ask()
            except Unsure:
                if not left:
                    raise
                time.sleep(pause)
        raise AssertionError

    def _status(self, stage: str, error: Any) -> Exception:
        status: int = error.status_code
        said = self._clean(str(error.message))
        if status in _RETRIED or status >= 500 or status < 400:
            return (Busy if status == 429 else Unsure)(stage, f"Together answered {status}: {said}")
        what, remedy = _STOPS.get(status, ("refuses the request", "Change what it names"))
        return UserError(f"Together {what} ({status}: {said})", f"--backend together ({stage})", remedy)

    def _clean(self, text: str) -> str:
        return " ".join(str(without_key(text, self._key)).split())[:400]
