"""`dit_experts`: one transformer a stage of images or clips, as cascaded models have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from torch import Tensor, nn

from dfm_core.errors import ConfigError
from dfm_core.interfaces.backbone import Backbone, BackboneFacts, Conditioning
from dfm_core.stages import Stages
from dfm_plugins.backbones.medium import patching_for, transformer_for
from dfm_plugins.backbones.specs import DiTExpertsOptions
from dfm_plugins.backbones.splitting import run_by_finest_stage
from dfm_plugins.backbones.token_grid import Patching
from dfm_plugins.backbones.transformer import StageTransformer


class DiTExperts(Backbone):
    """Network k sees the stages 1…k, and runs where k is the finest visible stage. All have one token grid.

    Each is a `dit`, of clips a `video_dit`. The tokens of the earlier stages are added to those of stage k: the compute
    of a step does not grow. Weights of another run begin a network that is trained with those of the finest frozen one,
    wherever name and shape agree.
    """

    options: DiTExpertsOptions
    splits_batch = True

    def __init__(self, options: DiTExpertsOptions, facts: BackboneFacts) -> None:
        super().__init__(options, facts)
        num_stages = len(facts.layout)
        if max(options.frozen, default=0) > num_stages or len(set(options.frozen)) == num_stages:
            raise ConfigError(
                f"backbone.options.frozen: expected some of the stages 1 to {num_stages}, not all of them, got "
                f"{list(options.frozen)}"
            )
        patching = patching_for(options, facts.layout)
        self.experts = nn.ModuleList(
            transformer_for(_cut_as(options, patching, count), replace(facts, layout=facts.layout.prefix(count)))
            for count in range(1, num_stages + 1)
        )
        for number in options.frozen:
            self.experts[number - 1].requires_grad_(False)

    def forward(self, noisy_stages: Sequence[Tensor], t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        """Return the velocities in the shapes and dtype of `noisy_stages`, zero beyond a sample's finest stage."""
        return run_by_finest_stage(self._run_expert, noisy_stages, t, visible, conditioning)

    def describe(self) -> dict[str, str]:
        """Those of the finest stage's network, and how many there are."""
        frozen = ", ".join(map(str, self.options.frozen))
        networks = f"{len(self.experts)}" + (f", frozen: {frozen}" if frozen else "")
        return {**cast(StageTransformer, self.experts[-1]).describe(), "networks": networks}

    def stage_parameters(self) -> Sequence[Sequence[nn.Parameter]]:
        """Each stage's network."""
        return [list(expert.parameters()) for expert in self.experts]

    def initial_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Begin each network that is trained, after a frozen one, with the weights of that one."""
        begun = dict(weights)
        for number in range(2, len(self.experts) + 1):
            before = [frozen for frozen in self.options.frozen if frozen < number]
            if number in self.options.frozen or not before:
                continue
            source, own = f"experts.{max(before) - 1}.", f"experts.{number - 1}."
            begun |= {own + name[len(source) :]: value for name, value in weights.items() if name.startswith(source)}
        return begun

    def _run_expert(self, index: int, stages: Stages, t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        return cast(StageTransformer, self.experts[index])(stages, t, visible, conditioning)


def _cut_as(options: DiTExpertsOptions, patching: Patching, count: int) -> DiTExpertsOptions:
    """Options that cut the first `count` stages into the patches that they have among all."""
    cut: dict[str, object] = {"token_grid": min(patching.grid[-2:]), "patch_size": None}
    if len(patching.grid) == 3:
        cut["temporal_patch"] = patching.patches[count - 1][0]
    return options.model_copy(update=cut)
