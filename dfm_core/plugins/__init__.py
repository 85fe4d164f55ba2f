"""What a plugin module imports: specs, the base of options and the hook marker. No torch.

A plugin is a module with the literal `DFM_PLUGIN_API = 1` (`API_VERSION`, the version it was written for) and, marked
with `@hookimpl`, functions without arguments that list specs: one a kind (`dfm_decompositions`, `dfm_stage_schedules`,
`dfm_timestep_samplers`, `dfm_paths`, `dfm_backbones`, `dfm_autoencoders`, `dfm_datasets`, `dfm_metrics`) and
`dfm_presets`. It is found as an entry point of the group `dfm_core`, whose name is the namespace of its components.
"""

from dfm_core.plugins.hookspecs import API_VERSION, hookimpl
from dfm_core.plugins.specs import (
    AutoencoderSpec,
    BackboneSpec,
    ComponentSpec,
    DatasetSpec,
    DecompositionSpec,
    MetricSpec,
    Options,
    PathSpec,
    PresetSpec,
    StageScheduleSpec,
    TimeGrid,
    TimestepSamplerSpec,
)

__all__ = [
    "API_VERSION",
    "AutoencoderSpec",
    "BackboneSpec",
    "ComponentSpec",
    "DatasetSpec",
    "DecompositionSpec",
    "MetricSpec",
    "Options",
    "PathSpec",
    "PresetSpec",
    "StageScheduleSpec",
    "TimeGrid",
    "TimestepSamplerSpec",
    "hookimpl",
]
