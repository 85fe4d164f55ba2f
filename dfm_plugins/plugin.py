"""The plugin that ships: names and addresses of the built-in components. Imports no torch."""

from dfm_core.plugins import PresetSpec, hookimpl

DFM_PLUGIN_API = 1
