"""What a training job on Together is told beyond `TrainConfig`."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic


class TogetherConfig(pydantic.BaseModel):
    """Settings of `--backend together`. The key is no setting: see `repo_agent.keys`."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    """The base's name at Together; None: the same name as `--base`, which must then be no folder of this machine."""
    batch_size: Annotated[int, pydantic.Field(ge=1)] | Literal["max"] | None = None
    """Packed rows an optimizer step; `max` is the most that Together allows for this model. None: `--batch-size`,
    moved into what Together allows."""
    packing: bool = True
    """Whether Together joins short rows. Without it every row is billed at the longest row's length."""
    checkpoints: int = pydantic.Field(1, ge=1)
    suffix: str = pydantic.Field("", max_length=28, pattern=r"^[A-Za-z0-9-]*$")
    """The beginning of the tuned model's name at Together; what makes it unique is added. "": from `--out`."""
    budget_usd: float | None = pydantic.Field(None, gt=0)
    """The job is not created where Together's estimate is higher, or there is none."""
    yes: bool = False
    """Create the job without asking, where its price is known."""
    accept_labels: bool = False
    """Create the job although Together's preview gives some tokens another loss than ours; ids must still be equal."""
    accept_unchecked: bool = False
    """Begin with preference pairs although Together shows what it makes of them only once the job runs."""
    poll_seconds: float = pydantic.Field(15.0, gt=0, le=86_400)
