"""What a run must fit together before its first step, and the weights of another that it may begin with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dfm_core.composition import Composition, DataDescription
from dfm_core.errors import CheckpointError, CompositionError
from dfm_core.model import read_weights
from dfm_core.schedule_coverage import stage_sets_of_another_training
from dfm_core.solvers import make_solver
from dfm_core.training.progress import Reporter

if TYPE_CHECKING:
    from dfm_core.config.run_config import RunConfig

SMALL_STAGE = 0.2
"""Root mean square below which standardisation is suggested (docs/decisions/0014-standardised-pixels.md)."""


def check_sampling(config: RunConfig, data: DataDescription) -> None:
    """Raise UsageError for sampling settings that would stop the run only at its first sample grid."""
    make_solver(config.sampling.solver)
    if config.sampling.cfg != 1 and not data.classes:
        raise CompositionError(
            f"sampling.cfg={config.sampling.cfg:g} asks for guidance, which needs labels, and the data has none: "
            "set sampling.cfg=1, or use labelled data (a folder with a sub-folder for each class)"
        )


def check_self_contained(composition: Composition) -> None:
    """Raise CompositionError for a run that leaves some of what generation shows to the weights it begins with."""
    left = stage_sets_of_another_training(composition.grid, composition.timestep_sampler)
    if left:
        sets = "; ".join("+".join(str(index + 1) for index, seen in enumerate(stages) if seen) for stages in left)
        raise CompositionError(
            f"this run does not train stages {sets}: it goes on from weights that know them; give --init-from RUN"
        )


def hint_at_small_stages(composition: Composition) -> str | None:
    """Return what to say of stages that are far smaller than the noise which is added to them; None of none."""
    sigmas = composition.statistics.sigmas(composition.space.scales)
    small = {index: sigma for index, sigma in enumerate(sigmas, 1) if 0 < sigma < SMALL_STAGE}
    if not small:
        return None
    index, sigma = min(small.items(), key=lambda item: item[1])
    return (
        f"stage {index} has a root mean square of {sigma:.2g}: noise hides it at most of the timesteps that are drawn, "
        "and it is learned late; --set flow.standardize=true divides each stage by its own"
    )


def initialise_from(composition: Composition, source: Path, reporter: Reporter | None = None) -> None:
    """Copy the averaged weights of another run or exported model wherever name and shape agree.

    Raises CheckpointError if that covers less than half of the network.
    """
    _, weights = read_weights(source)
    own = composition.model.backbone.state_dict()
    renamed = composition.model.backbone.initial_weights(weights)
    fitting = {name: weight for name, weight in renamed.items() if name in own and own[name].shape == weight.shape}
    taken, whole = (sum(tensor.numel() for tensor in tensors.values()) for tensors in (fitting, own))
    if taken < whole / 2:
        raise CheckpointError(
            f"{source}: of this network's {whole} numbers only {taken} have a counterpart there of the same name and "
            "shape, expected at least half; use the same backbone and options"
        )
    composition.model.backbone.load_state_dict(fitting, strict=False)
    if reporter is not None:
        reporter.say(f"began with {len(fitting)} of {len(own)} tensors from {source}")
