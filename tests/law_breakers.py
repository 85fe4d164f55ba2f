"""A plugin with one component of each kind that breaks exactly one law."""

from __future__ import annotations

from fake_plugins import FakeSite

BROKEN = {
    "dataset": "labels_match_the_classes",
    "autoencoder": "inputs_are_not_changed",
    "decomposition": "gradients_flow",
    "path": "velocity_is_the_derivative",
    "stage_schedule": "ends_at_data",
    "timestep_sampler": "probabilities_add_up_to_one",
    "backbone": "trains_every_parameter",
    "metric": "numbers_are_finite",
}
"""Kind -> the law that its component `acme/<kind>` breaks."""

PLUGIN = """
from dfm_core.plugins import AutoencoderSpec, BackboneSpec, DatasetSpec, StageScheduleSpec, TimestepSamplerSpec
from dfm_plugins.backbones.specs import DiTOptions
from dfm_plugins.datasets.specs import ShapesOptions
from dfm_core.plugins import MetricSpec, PathSpec
from dfm_plugins.decompositions.specs import LaplacianOptions
from dfm_plugins.metrics.specs import SpectrumOptions
from dfm_plugins.stage_schedules.specs import ProgressiveOptions

@hookimpl
def dfm_datasets():
    return [DatasetSpec("dataset", "Has a label too many.", "acme_parts:Mislabelled", ShapesOptions)]

@hookimpl
def dfm_autoencoders():
    return [AutoencoderSpec("autoencoder", "Writes into its input.", "acme_parts:InPlace")]

@hookimpl
def dfm_decompositions():
    return [
        DecompositionSpec("decomposition", "Detaches, and prints.", "acme_parts:Detached", LaplacianOptions),
        DecompositionSpec("backbone", "Has the name of another kind's.", "acme_parts:Detached", LaplacianOptions),
        DecompositionSpec("writing", "Writes into its input.", "acme_parts:Writing", LaplacianOptions),
        DecompositionSpec("refusing", "Refuses every size.", "acme_parts:Refusing", LaplacianOptions),
        DecompositionSpec("single", "Refuses several stages.", "acme_parts:Single", LaplacianOptions),
        DecompositionSpec("raising", "Cannot be built.", "acme_parts:Raising", LaplacianOptions),
        DecompositionSpec("absent", "Is not there.", "acme_parts:Absent", LaplacianOptions),
        DecompositionSpec("crashing", "Raises in decompose.", "acme_parts:Crashing", LaplacianOptions),
    ]

@hookimpl
def dfm_paths():
    return [PathSpec("path", "Takes noise for data.", "acme_parts:Backwards")]

@hookimpl
def dfm_stage_schedules():
    return [StageScheduleSpec("stage_schedule", "Stops short.", "acme_parts:Short", ProgressiveOptions)]

@hookimpl
def dfm_timestep_samplers():
    return [
        TimestepSamplerSpec("timestep_sampler", "Promises too little.", "acme_parts:Promising"),
        TimestepSamplerSpec("second_only", "The second stage alone.", "acme_parts:SecondOnly"),
    ]

@hookimpl
def dfm_metrics():
    return [MetricSpec("metric", "Of another name for noise.", "acme_parts:Renaming", SpectrumOptions)]

@hookimpl
def dfm_backbones():
    return [BackboneSpec("backbone", "Has an idle parameter.", "acme_parts:Idle", DiTOptions)]
"""

PARTS = """
from dataclasses import replace
import torch
from dfm_core.errors import StageSizeError
from dfm_core.flow import StraightPath
from dfm_core.interfaces.stage_schedule import ScheduleGrid
from dfm_core.interfaces.timestep_sampler import TimestepDraw
from dfm_plugins.autoencoders.pixels import Pixels
from dfm_plugins.backbones.dit import DiT
from dfm_plugins.datasets.shapes import Shapes
from dfm_plugins.decompositions.laplacian import Laplacian
from dfm_plugins.metrics.spectrum import SpectrumDistance
from dfm_plugins.stage_schedules.simultaneous import SimultaneousSchedule
from dfm_plugins.stage_schedules.progressive import ProgressiveSchedule
from dfm_plugins.timestep_samplers.uniform import UniformSampler

class Mislabelled(Shapes):
    def load(self, index, epoch):
        return super().load(index, epoch) | {"label": 99}

class InPlace(Pixels):
    def encode(self, images):
        return images.mul_(0.5)

    def decode(self, latents):
        return 2 * latents

class Detached(Laplacian):
    def decompose(self, x):
        print("decomposing")
        return tuple(stage.detach() for stage in super().decompose(x))

class Writing(Laplacian):
    def decompose(self, x):
        stages = tuple(stage.clone() for stage in super().decompose(x))
        x.data.mul_(0.5)
        return stages

class Refusing(Laplacian):
    def __init__(self, options, facts):
        raise StageSizeError(f"{len(facts.stage_sizes)} stages are not to my taste")

class Single(Laplacian):
    def layout(self, shape):
        if len(self.facts.stage_sizes) > 1:
            raise StageSizeError("one stage is enough")
        return super().layout(shape)

class Raising(Laplacian):
    def __init__(self, options, facts):
        raise ZeroDivisionError("by nothing")

class Crashing(Laplacian):
    def decompose(self, x):
        if x.shape[1] == 4:
            raise IndexError("too many channels for me")
        return super().decompose(x)

class Backwards(StraightPath):
    def at(self, data, noise, t):
        noisy, velocities = super().at(data, noise, t)
        return noisy, tuple(-velocity for velocity in velocities)

    def moments(self, t, stage_sigmas):
        return replace(super().moments(t, stage_sigmas), cross=-super().moments(t, stage_sigmas).cross)

class Short(ProgressiveSchedule):
    def grid(self):
        grid = super().grid()
        return ScheduleGrid(torch.where(grid.t == 1, 1 - 1e-9, grid.t), grid.visible)

class Promising(UniformSampler):
    def visible_probabilities(self):
        return {stages: 0.99999 * share for stages, share in super().visible_probabilities().items()}

class SecondOnly(UniformSampler):
    def visible_probabilities(self):
        return {tuple(index == 1 for index in range(self.facts.num_stages)): 1.0}

class Renaming(SpectrumDistance):
    def against(self, reference):
        measure = super().against(reference)
        numbers = lambda samples: measure(samples)["spectrum"]
        return lambda samples: {**measure(samples), "far" if numbers(samples) > 1 else "near": 0.0}

class Idle(DiT):
    def __init__(self, options, facts):
        super().__init__(options, facts)
        self.idle = torch.nn.Parameter(torch.zeros(3))
"""


def install_broken(site: FakeSite) -> None:
    """Install the plugin `acme` as distribution dfm-acme 1.2."""
    site.module("acme_parts", PARTS, preamble="")
    site.plugin("acme", PLUGIN)
