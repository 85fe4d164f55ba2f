"""What a plugin module imports: specs, the options base and the hook marker. No torch."""

from dfm_core.plugins.hookspecs import API_VERSION, hookimpl
from dfm_core.plugins.specs import (
    BackboneSpec,
    ComponentSpec,
    DatasetSpec,
    DecompositionSpec,
    Options,
    PresetSpec,
    StageScheduleSpec,
    TimestepSamplerSpec,
)

__all__ = [
    "API_VERSION",
    "BackboneSpec",
    "ComponentSpec",
    "DatasetSpec",
    "DecompositionSpec",
    "Options",
    "PresetSpec",
    "StageScheduleSpec",
    "TimestepSamplerSpec",
    "hookimpl",
]
