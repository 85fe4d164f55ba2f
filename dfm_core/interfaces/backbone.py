"""Kind `backbone`: the network that predicts the velocity of every stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel
from torch import Tensor, nn

from dfm_core.stages import StageLayout, Stages, pick


@dataclass(frozen=True)
class BackboneFacts:
    """What core computes for a backbone.

    layout: shapes of the stages at the training size. num_classes: number of labels, 0 for unlabelled data.
    """

    layout: StageLayout
    num_classes: int

    @property
    def null_label(self) -> int:
        """Label that stands for "no label" (dropped, for guidance)."""
        return self.num_classes


@dataclass(frozen=True)
class Conditioning:
    """What a sample is conditioned on. label: (B,) int64 in [0, num_classes], num_classes meaning none; or None."""

    label: Tensor | None = None

    def at(self, rows: Tensor) -> Conditioning:
        """That of some of the (B,) samples. rows: (n,), as `dfm_core.stages.rows_where` gives them."""
        return self if self.label is None else Conditioning(*pick([self.label], rows))


class Backbone(nn.Module, ABC):
    """Predict one velocity a stage from all noisy stages.

    Laws: outputs have the shapes and the dtype of the inputs; values of invisible stages (NaN included) cannot change
    anything; samples do not influence each other; every parameter gets a gradient; t, the number of visible stages and
    the label matter; in eval mode nothing is random; other input sizes in the same ratios work, of clips also other
    frame counts and a single frame; so does bfloat16 autocast. Build it from `facts.layout`, and draw the initial
    weights from torch's default generator: core seeds it.

    Label dropout, guidance and preconditioning are core's. With preconditioning (`flow.preconditioning`, on by default)
    the noisy stages come in, and the outputs are expected, at a second moment of 1; core makes velocities of them.
    """

    splits_batch: bool = False
    """Whether samples go different ways by their visible stages, so that a step costs more or less with these."""

    def __init__(self, options: BaseModel, facts: BackboneFacts) -> None:
        super().__init__()
        self.options = options
        self.facts = facts

    @abstractmethod
    def forward(self, noisy_stages: Sequence[Tensor], t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        """Return the velocities.

        noisy_stages: S tensors (B, C_s, *spatial_s). t: (B, S) in [0, 1]. visible: (B, S) bool; samples of one batch
        may differ in it. Returns S tensors of the same shapes; what stands at an invisible stage is ignored.
        """

    def describe(self) -> dict[str, str]:
        """Return facts worth showing in a plan, such as {"tokens": "16x16 = 256"}. Default: nothing."""
        return {}

    def shardable_blocks(self) -> Sequence[nn.Module]:
        """Return the parts that repeat, in the order in which they run: each called once a forward, as `block(...)`.

        They are the units in which training on several GPUs splits the weights, and in which activations may be
        computed again in the backward pass to save memory. Default: none.
        """
        return ()

    def stage_parameters(self) -> Sequence[Sequence[nn.Parameter]]:
        """Return for each stage the parameters that are its own (its way in, its head), for the log of their gradients.

        Default: none; parameters that stages share belong to nobody.
        """
        return ()

    def weight_groups(self) -> Mapping[str, Sequence[nn.Parameter]]:
        """Return parameters by what they do, for `specialisation` to choose from. Default: none.

        The usual names: "modulation" (of the blocks), "projection" (ways in, heads), "conditioning" (embeddings of
        time, stage and label), "attention", "mlp". A parameter may be in no group, or in several.
        """
        return {}

    def initial_weights(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the weights of another run (`--init-from`) under the names that they are to have here.

        Those without a counterpart of the same name and shape are left out by core. Default: as they are.
        """
        return weights
