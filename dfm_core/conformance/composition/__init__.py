"""Laws of a model made with a component: the other kinds from the defaults, everything small.

They need the whole framework and so stand above the other laws: `dfm_core.conformance` imports this only when it is
asked for `check_composition`.
"""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dfm_core.conformance.composition.small_config import Partners
from dfm_core.conformance.composition.small_model import IMAGES, SmallModel
from dfm_core.conformance.fresh_process import FreshProcessError, call_fresh
from dfm_core.conformance.law import LawBroken, Measurement, at_least, at_most, law, laws_of
from dfm_core.conformance.runner import LawResult, judge, told
from dfm_core.conformance.subject import Subject, subject_of
from dfm_core.model import load
from dfm_core.plugins.registry import Registry, default_registry, registry_session

MOST_OF_LOSS = 0.999
"""Largest share of the loss that may be left after the training."""


def check_composition(
    component: str,
    *,
    kind: str | None = None,
    options: Mapping[str, object] | None = None,
    registry: Registry | None = None,
    report: Callable[[LawResult], None] | None = None,
) -> tuple[LawResult, ...]:
    """Make a small model with a component, train it for 30 steps, sample it, and judge what comes.

    component: a name as users write it; of a kind that is no part of a model there is nothing to judge. kind: where the
    name leaves it open. report: told of each result as soon as it is there. Errors as of `check_component`. Takes
    seconds to half a minute.
    """
    registry = registry or default_registry()
    subject = subject_of(component, kind, options, registry)
    if not subject.resolved.kind.part_of_run:
        return ()
    return judge_model(subject, registry, {}, report)


def judge_model(
    subject: Subject, registry: Registry, partners: Partners, report: Callable[[LawResult], None] | None = None
) -> tuple[LawResult, ...]:
    """Judge a model of a component and of `partners` (kind -> name, or name and options), else of the defaults."""
    with (
        registry_session(registry),
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(sys.stderr),
    ):
        model = SmallModel(subject, registry, Path(folder), partners)
        return told((judge(law, [("", partial(law.check, model))]) for law in laws_of("composition")), report)


@law("composition")
def fits_the_default_partners(model: SmallModel) -> Measurement:
    """With the default components of the other kinds, or those it declares, it makes a model at some small stages."""
    model.accepted()
    return Measurement()


@law("composition")
def training_draws_what_generation_visits(model: SmallModel) -> Measurement:
    """There is a schedule that shows the network only sets of stages of a positive probability in training."""
    parts = model.fitting()
    probabilities = parts.sampler.visible_probabilities()
    least = min(probabilities.get(tuple(row), 0.0) for row in parts.grid.visible.tolist())
    return at_least(least, 0.0, f"a set of stages that generation visits has the probability {least:g} in training")


@law("composition")
def training_lowers_the_loss(model: SmallModel) -> Measurement:
    """Thirty steps on one batch lower the loss of that batch."""
    trained = model.trained()
    return at_most(
        trained.loss_after / trained.loss_before,
        MOST_OF_LOSS,
        f"the loss went from {trained.loss_before:.4g} to {trained.loss_after:.4g}, expected at most {MOST_OF_LOSS:g} "
        "of it: see that gradients reach the weights, and that the stages hold what the data shows",
    )


@law("composition")
def generates_images_and_previews(model: SmallModel) -> Measurement:
    """Generation gives finite images of the data's size, and finite previews of the stages' sizes on the way."""
    stages, channels = model.fitting().config.stages, model.trained().channels
    for count, images in model.generated().previews.items():
        _check_images(images, (IMAGES, channels, *stages[count - 1]), count)
    return Measurement()


@law("composition")
def reloads_to_the_same_samples(model: SmallModel) -> Measurement:
    """Loaded from its checkpoint in a fresh process it generates the same images, bit for bit."""
    here = digest(model.generated().images)
    try:
        there = call_fresh(digest_of_run, str(model.trained().path))
    except FreshProcessError as error:
        raise LawBroken(
            f"the model cannot be loaded and sampled in a fresh process ({error.reason}); depend on options, facts and "
            "the state dict only, and on no state of this process"
        ) from error
    if here != there:
        raise LawBroken(
            "a fresh process generates other images from the same checkpoint; register what the output depends on in "
            "the state dict, derive the rest from options and facts, and draw from no global random state"
        )
    return Measurement()


def digest_of_run(run: str) -> str:
    """Digest of the images of a run's newest checkpoint."""
    return digest(load(run, device="cpu").generate(IMAGES))


def digest(images: Tensor) -> str:
    """Digest of the bits of a tensor on the CPU."""
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()


def _check_images(images: Tensor, shape: tuple[int, ...], num_stages: int) -> None:
    what = f"the preview of {num_stages} stage{'s' * (num_stages != 1)}"
    if tuple(images.shape) != shape:
        raise LawBroken(f"{what}: expected {shape}, got {tuple(images.shape)}; recompose and decode to these sizes")
    if not bool(torch.isfinite(images).all()):
        share = float(images.isfinite().float().mean())
        raise LawBroken(f"{what}: expected finite images, got {share:.0%} finite; keep sums and scales in range")
