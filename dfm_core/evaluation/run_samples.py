"""Samples of a trained model for its evaluation, kept in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfm_core.composition import snapshot
from dfm_core.config.settings import SamplingSettings
from dfm_core.evaluation.sample_store import SampleStore, StoredSamples, digest_of
from dfm_core.generation import generate_images
from dfm_core.interfaces.autoencoder import state_digest
from dfm_core.media import measured_size
from dfm_core.model import Model
from dfm_core.plugins.discovery import installed_version
from dfm_core.training.distributed import World, check_same

# Keys of a configuration on which the samples of given weights do not depend.
_OTHER_KEYS = {"logging", "training", "output", "name", "device", "workers", "plugin_files", "sampling", "dataset"}


def sample_request(model: Model, cfg: float, seed: int, solver: str) -> dict[str, Any]:
    """All that a model's samples depend on, in plain data: two requests are equal where the images are."""
    composition = model.composition
    providers = {kind: found for kind, found in model.assembler.providers().items() if kind != "dataset"}
    described = snapshot(composition, {**providers, "core": {"version": installed_version()}})
    config = {key: value for key, value in described["config"].items() if key not in _OTHER_KEYS}
    sampling: SamplingSettings = composition.config.sampling
    request = {
        "weights": state_digest(composition.model.backbone.state_dict()),
        "model": digest_of({**described, "config": config}),
        "schedule": {"name": model.schedule.name, "options": dict(model.schedule.options)},
        "solver": solver,
        "cfg": float(cfg),
        "cfg_interval": list(sampling.cfg_interval),
        "seed": seed,
    }
    plain: dict[str, Any] = json.loads(json.dumps(request, default=str))
    return plain


def generate_samples(
    model: Model,
    root: Path,
    num: int,
    world: World,
    *,
    cfg: float,
    seed: int,
    solver: str,
    batch_size: int,
    report: Callable[[int, int], None] = lambda made, total: None,
) -> tuple[StoredSamples, dict[str, Any]]:
    """Make what is missing of `num` images or clips below `root`, every process its own; return them and their request.

    Image i depends on (seed, i) and its class, the classes taking turns; so nothing is made twice, and nothing depends
    on interruptions. Clips of one frame are kept as images. All processes must call.
    """
    request = sample_request(model, cfg, seed, solver)
    check_same(world, request)
    size = measured_size(model.composition.generated_size)
    store = SampleStore(root, request, size)

    def generate(part: range) -> tuple[Tensor, list[int] | None]:
        starts = range(part.start, part.stop, batch_size)
        images = [
            generate_images(
                model.stream(min(batch_size, part.stop - start), first_index=start, seed=seed, cfg=cfg, solver=solver)
            ).cpu()
            for start in starts
        ]
        classes = model.labels_for(part.stop)
        made = torch.cat(images)
        made = made.squeeze(2) if made.ndim > 2 + len(size) else made
        return made, None if classes is None else classes[part.start :]

    store.fill(num, generate, world, report)
    samples = StoredSamples(store, num, model.classes)
    samples.channels = model.composition.data.channels
    return samples, request
