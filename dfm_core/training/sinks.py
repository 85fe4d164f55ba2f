"""Where a run's numbers go besides metrics.jsonl: TensorBoard, wandb, trackio; each imported only when it is wanted."""

from __future__ import annotations

import json
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dfm_core.config.settings import LoggingSettings
from dfm_core.errors import UsageError
from dfm_core.training.run_directory import RunDirectory, replace_text

IDENTITY_FILE = "sinks.json"


class Sink(ABC):
    """A service that keeps numbers by step. Any method may raise whatever its package raises."""

    @abstractmethod
    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Send the numbers of a step; parts of a name are separated by slashes."""

    @abstractmethod
    def close(self, failed: bool) -> None:
        """Send what is left. failed: the run ended by an error."""


@dataclass(frozen=True)
class Identity:
    """Under what a run is known to services, from its first start on, whatever it is called later."""

    id: str
    name: str


def identity_of(run: RunDirectory, name: str | None) -> Identity:
    """Return the identity that lies in the run's folder, or write a new one there. name: by default the folder's."""
    path = run.path / IDENTITY_FILE
    try:
        return Identity(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        identity = Identity(uuid.uuid4().hex[:8], name or run.path.resolve().name)
        replace_text(path, json.dumps(asdict(identity)))
        return identity
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error}): delete it, and the run begins anew in its sinks") from error


def check_sinks(names: Sequence[str]) -> None:
    """Raise UsageError, saying what to install, if the package of a sink is missing."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise UsageError(
            f"logging.sinks: {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install 'decomposable-flow-matching[log]'"
        )


def open_sink(name: str, run: RunDirectory, settings: LoggingSettings, config: Mapping[str, Any]) -> Sink:
    """Open the sink of a name, at the place where this run left off in it, if it was there before."""
    sinks = {"wandb": WandbSink, "trackio": TrackioSink}
    check_sinks([name])
    return sinks[name](run.path, identity_of(run, settings.run_name), settings.project, config)


class TensorBoardSink(Sink):
    """TensorBoard's events, in the run's folder."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a fifth of a second, and only here

        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, failed: bool) -> None:
        self._writer.close()


class WandbSink(Sink):
    """Weights & Biases; WANDB_MODE=offline keeps everything in the run's folder, for `wandb sync`."""

    def __init__(self, folder: Path, identity: Identity, project: str, config: Mapping[str, Any]) -> None:
        import wandb

        # Its copy of the terminal would break the live line. A run that the caller has open stays open.
        settings = wandb.Settings(console="off", silent=True)
        try:
            self._run = wandb.init(
                project=project,
                name=identity.name,
                id=identity.id,
                dir=str(folder),
                config=dict(config),
                allow_val_change=True,
                resume="allow",
                reinit="create_new",
                settings=settings,
            )
        except wandb.errors.UsageError as error:
            raise UsageError(f"{error} WANDB_MODE=offline works without") from error

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


class TrackioSink(Sink):
    """trackio: a database on this machine (in TRACKIO_DIR), or the space that TRACKIO_SPACE_ID names."""

    def __init__(self, folder: Path, identity: Identity, project: str, config: Mapping[str, Any]) -> None:
        import trackio

        # It knows runs by their name alone, and two folders may have the same. Standard output is for results.
        name = f"{identity.name}-{identity.id[:4]}"
        with redirect_stdout(sys.stderr):
            self._run = trackio.init(project=project, name=name, config=dict(config), resume="allow", embed=False)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self, failed: bool) -> None:
        import trackio

        with redirect_stdout(sys.stderr):
            trackio.finish()
