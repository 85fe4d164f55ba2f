"""Weights that depend on the stage being generated: a wrapper around any backbone that names its groups of weights.

Paper section 4.2 and table 1d (a base averaged with one set a stage), appendix F (LoRA and experts).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dfm_core.config.settings import SpecialisationSettings
from dfm_core.errors import CompositionError
from dfm_core.interfaces.backbone import Backbone, Conditioning
from dfm_core.stages import Stages, by_finest_stage, pick, put

ALL = "all"
"""Name that stands for every parameter, whatever groups the backbone names."""


class ActiveStage:
    """Index of the stage whose weights are in use."""

    index = 0


class Form(nn.Module):
    """How a weight is made of trained tensors, in the order of `split`. Those of the stages lie along axis 1.

    So that every stage's get a gradient, zero or not, wherever the weight is used: processes that share the training
    then always have gradients of the same tensors.
    """

    def __init__(self, active: ActiveStage, num_stages: int, rank: int) -> None:
        super().__init__()
        self.active, self.num_stages, self.rank = active, num_stages, rank

    def own(self, stacked: Tensor) -> Tensor:
        """The active stage's part of (n, S, …): (n, …)."""
        return stacked.select(1, self.active.index)

    def stacked(self, weight: Tensor) -> Tensor:
        """One copy of a weight (n, …) for each stage: (n, S, …)."""
        return torch.stack([weight] * self.num_stages, 1)

    def split(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Trained tensors that `weight` determines, so that every stage begins with it."""
        raise NotImplementedError

    def begin(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Trained tensors beside those of `split`, at their beginning."""
        return ()

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        """All trained tensors; the name is torch's, for parametrisations."""
        return (*self.split(weight), *self.begin(weight))


class Average(Form):
    """(base + own) / 2."""

    def forward(self, base: Tensor, own: Tensor) -> Tensor:
        return (base + self.own(own)) / 2

    def split(self, weight: Tensor) -> tuple[Tensor, ...]:
        return weight, self.stacked(weight)


class Expert(Form):
    """The stage's own."""

    def forward(self, own: Tensor) -> Tensor:
        return self.own(own)

    def split(self, weight: Tensor) -> tuple[Tensor, ...]:
        return (self.stacked(weight),)


class LowRank(Form):
    """base + up · down, of rank r, zero at the beginning (Hu et al. 2022, without its scale)."""

    def forward(self, base: Tensor, up: Tensor, down: Tensor) -> Tensor:
        return base + (self.own(up) @ self.own(down)).view_as(base)

    def split(self, weight: Tensor) -> tuple[Tensor, ...]:
        return (weight,)

    def begin(self, weight: Tensor) -> tuple[Tensor, ...]:
        inputs = weight[0].numel()
        up = weight.new_zeros(len(weight), self.num_stages, self.rank)
        down = weight.new_empty(self.rank, self.num_stages, inputs).uniform_(-1, 1) / math.sqrt(inputs)
        return up, down


FORMS: dict[str, type[Form]] = {"average": Average, "lora": LowRank, "expert": Expert}


class SpecialisedBackbone(Backbone):
    """A backbone that runs each sample with the weights of its finest visible stage.

    A batch is split by that stage. It names no blocks: what is computed again in a backward pass would meet another
    stage's weights, and processes whose samples are of different stages would gather the blocks unequally often.
    """

    splits_batch = True

    def __init__(self, backbone: Backbone, settings: SpecialisationSettings) -> None:
        """Take over `backbone`, whose parameters of the chosen groups are replaced in place.

        Raises CompositionError for groups that it does not name, and for one that is specialised already.
        """
        super().__init__(backbone.options, backbone.facts)
        self.backbone = backbone
        self._settings = settings
        self._active = ActiveStage()
        form, num_stages = FORMS[settings.form], len(backbone.facts.layout)
        for module, name in _places(backbone, settings):
            parametrize.register_parametrization(module, name, form(self._active, num_stages, settings.rank))

    def forward(self, noisy_stages: Sequence[Tensor], t: Tensor, visible: Tensor, conditioning: Conditioning) -> Stages:
        """Return the backbone's velocities, each sample's with the weights of its finest visible stage."""
        device = noisy_stages[0].device
        velocities = tuple(torch.zeros_like(stage) for stage in noisy_stages)
        for index, rows in by_finest_stage(visible, device):
            self._active.index = index
            time, seen = pick((t, visible.to(device)), rows)
            parts = self.backbone(pick(noisy_stages, rows), time, seen, conditioning.at(rows))
            velocities = tuple(put(whole, rows, part) for whole, part in zip(velocities, parts, strict=True))
        return velocities

    def describe(self) -> dict[str, str]:
        """The backbone's facts, and what is specialised."""
        settings = self._settings
        form = f"{settings.form} of rank {settings.rank}" if settings.form == "lora" else settings.form
        return {**self.backbone.describe(), "specialised": f"{', '.join(settings.groups)} ({form})"}

    def stage_parameters(self) -> Sequence[Sequence[nn.Parameter]]:
        """The backbone's; the sets of a group's stages are one tensor and belong to nobody."""
        return self.backbone.stage_parameters()

    def initial_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of a run that was specialised alike as they are; every stage begins with those of one that was not."""
        own = self.state_dict()
        if sum(name in own for name in weights) > len(weights) / 2:
            return dict(weights)
        begun: dict[str, Tensor] = {}
        for name, weight in self.backbone.initial_weights(weights).items():
            owner, _, last = name.rpartition(".")
            key = f"{owner}.parametrizations.{last}.original".lstrip(".")
            if f"backbone.{key}0" in own:
                form = form_of(self.backbone.get_submodule(owner), last)
                begun |= {f"backbone.{key}{i}": part for i, part in enumerate(form.split(weight))}
            else:
                begun[f"backbone.{name}"] = weight
        return begun


def specialised(backbone: Backbone, settings: SpecialisationSettings) -> Backbone:
    """The backbone with weights of its own for each stage, where groups are chosen; else as it is."""
    return SpecialisedBackbone(backbone, settings) if settings.groups else backbone


def form_of(module: nn.Module, name: str) -> Form:
    """The form of a specialised parameter."""
    form: Form = module.parametrizations[name][0]  # type: ignore[index, assignment]
    return form


def _places(backbone: Backbone, settings: SpecialisationSettings) -> list[tuple[nn.Module, str]]:
    """Modules and names of the parameters that are to be specialised."""
    groups = backbone.weight_groups()
    unknown = [name for name in settings.groups if name != ALL and name not in groups]
    if unknown:
        known = f"{type(backbone).__name__} names {', '.join(groups) or 'no groups (weight_groups)'}"
        raise CompositionError(
            f"specialisation.groups: {', '.join(unknown)}: expected groups of the backbone, or {ALL}; {known}"
        )
    if any(parametrize.is_parametrized(module) for module in backbone.modules()):
        raise CompositionError(
            f"specialisation: this {type(backbone).__name__} has parametrised weights already; make a new one"
        )
    chosen = {id(parameter) for name in settings.groups if name != ALL for parameter in groups[name]}
    return [
        (module, name)
        for module in list(backbone.modules())
        for name, parameter in list(module.named_parameters(recurse=False))
        if (ALL in settings.groups or id(parameter) in chosen) and (settings.form != "lora" or parameter.ndim > 1)
    ]
