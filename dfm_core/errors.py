"""Every error that a user can cause. The CLI prints the message without a traceback and exits with `exit_code`.

A component raises ConfigError for options that do not fit its facts, StageSizeError for sizes that it cannot make
(both in `__init__`), StageShapeError for tensors of a wrong shape; a data set also DataError and UnreadableSampleError.
The others are core's. A message says what was expected, what came and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DFMError(Exception):
    """Something failed while running (exit code 1). The message says what was expected, what came and what to do."""

    exit_code = 1


class UsageError(DFMError):
    """The request itself cannot be met: a wrong name, option or combination (exit code 2)."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration value that is unknown, of the wrong type or out of range."""


class CompositionError(UsageError):
    """Components that are valid alone and do not fit together."""


class StageSizeError(UsageError):
    """Stage sizes that a decomposition, autoencoder or backbone cannot produce; the message says which would work."""


class StageShapeError(DFMError, ValueError):
    """Stage tensors whose shapes differ from the layout."""


class UnknownComponentError(UsageError):
    """A component name that no installed plugin provides."""


class PluginError(UsageError):
    """A plugin that cannot be used; the message names its distribution and version."""


class CheckpointError(DFMError):
    """A checkpoint or run folder that is missing, incomplete or of another model."""


class DataError(DFMError):
    """Data that is missing, empty or unreadable."""


class UnreadableSampleError(DataError):
    """One sample of a data set cannot be read. The loader skips, counts and names it."""


class ShortSampleError(UnreadableSampleError):
    """One sample is sound and too short for what is asked of it. Skipped, counted and named, and no sign of damage."""


class NonFiniteLossError(DFMError):
    """The loss is NaN or infinite; training stops and the last good checkpoint stays."""


class DeviceError(UsageError):
    """A device that this machine does not have."""


class WorldError(UsageError):
    """Processes that cannot train together: their number, their backend, or what each of them was asked for."""


class LostProcessError(DFMError):
    """Another process of the run has ended; this one cannot go on without it."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'a', 'b'?" for the known names nearest to `name`, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f" Did you mean {', '.join(repr(n) for n in near)}?" if near else ""
