"""Which metrics `dfm eval` measures, and with which options: --metrics, --set and the defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dfm_core.errors import ConfigError, UsageError


def read_metrics(names: str | None, settings: Sequence[str]) -> dict[str, dict[str, object]]:
    """Read --metrics and the METRIC.OPTION=VALUE of --set, values as YAML. Raises ConfigError.

    names: None names the defaults of images and those of clips: see `suited`.
    """
    from dfm_core.config.yaml_text import parse_yaml
    from dfm_core.evaluation.defaults import default_metrics

    listed = (
        default_metrics(medium=None) if names is None else [name.strip() for name in names.split(",") if name.strip()]
    )
    options: dict[str, dict[str, object]] = {name: {} for name in listed}
    if not options:
        raise UsageError(f"--metrics: expected names separated by commas, got {names!r}")
    for setting in settings:
        key, equals, text = setting.partition("=")
        metric, _, option = key.rpartition(".")
        if not equals or metric not in options or not option:
            raise ConfigError(
                f"--set {setting!r}: expected METRIC.OPTION=VALUE with one of the metrics {', '.join(options)}"
            )
        options[metric][option] = parse_yaml(text, f"--set {setting!r}")
    return options


def suited(metrics: Mapping[str, Mapping[str, object]], medium: str) -> dict[str, dict[str, object]]:
    """Those of some default metrics that measure a medium. Raises ConfigError for options of another."""
    from dfm_core.evaluation.defaults import default_metrics
    from dfm_core.media import PLURAL

    fitting = default_metrics(medium=medium)
    for name, options in metrics.items():
        if options and name not in fitting:
            raise ConfigError(f"--set {name}.{next(iter(options))}: metric {name!r} does not measure {PLURAL[medium]}")
    return {name: dict(metrics[name]) for name in fitting}


def check_metrics(metrics: Mapping[str, Mapping[str, object]]) -> None:
    """Raise for unknown metrics and wrong options, before anything is sampled."""
    from dfm_core.plugins.factory import validate_options
    from dfm_core.plugins.registry import default_registry

    for name, options in metrics.items():
        validate_options(default_registry().get("metric", name), options, name)
