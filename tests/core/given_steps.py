"""Generation steps with given previews, for tests of what is written of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class GivenStep:
    """A generation step whose preview is given: images (B, C, H, W) or clips (B, C, T, H, W)."""

    step: int
    num_steps: int
    num_visible: int
    stage_finished: bool
    given: Tensor

    def preview(self) -> Tensor:
        """What was given."""
        return self.given
