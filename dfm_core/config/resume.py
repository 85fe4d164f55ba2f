"""What may change when a run goes on."""

from __future__ import annotations

from typing import Any

from dfm_core.config.plugin_files import KEY as PLUGIN_FILES
from dfm_core.config.resolve import flatten
from dfm_core.config.run_config import RunConfig
from dfm_core.errors import ConfigError
from dfm_core.plugins.kinds import RUN_KINDS
from dfm_core.plugins.registry import OBJECT_PREFIX, Registry

CHANGEABLE = frozenset(
    {
        *("training.max_steps", "training.max_minutes", "training.checkpointing", "training.parallel"),
        *("device", "workers", "output", "name"),
    }
)
CHANGEABLE_SECTION = "logging."


def changed_keys(old: RunConfig, new: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Return dotted key -> (old, new) of every value that differs; None stands for a key that one of them lacks."""
    before, after = flatten(old.model_dump(mode="json")), flatten(new.model_dump(mode="json"))
    keys = dict.fromkeys((*before, *after))
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def places(registry: Registry, config: RunConfig) -> frozenset[str]:
    """Dotted keys of the component options that only say where something lies."""
    chosen = {kind: config.component(kind).name for kind in RUN_KINDS}
    named = {kind: name for kind, name in chosen.items() if not name.startswith(OBJECT_PREFIX)}
    models = {kind: registry.get(kind, name).spec.options for kind, name in named.items()}
    return frozenset(f"{kind}.options.{key}" for kind, model in models.items() for key in getattr(model, "places", ()))


def check_resume(old: RunConfig, new: RunConfig, registry: Registry) -> tuple[str, ...]:
    """Return what must be said before a run of config `old` goes on with `new`.

    Raises ConfigError for a value that a run keeps for its whole life.
    """
    changeable = CHANGEABLE | places(registry, old)
    # A plugin file that has changed is told of where the configuration is read.
    changed = {key: pair for key, pair in changed_keys(old, new).items() if key.partition(".")[0] != PLUGIN_FILES}
    forbidden = [key for key in changed if key not in changeable and not key.startswith(CHANGEABLE_SECTION)]
    if forbidden:
        lines = [f"{key}: the run has {changed[key][0]!r}, got {changed[key][1]!r}" for key in forbidden]
        allowed = ", ".join(sorted(changeable))
        advice = f"a run that goes on may change only {allowed} and {CHANGEABLE_SECTION}*; start a new run for the rest"
        raise ConfigError("\n".join([*lines, advice]))
    if "training.max_steps" in changed and new.training.rate_schedule == "cosine":
        before, after = changed["training.max_steps"]
        return (f"the cosine of the learning rate now ends at step {after} instead of {before}: the rate jumps",)
    return ()
