"""Metrics over sets of samples and one reference: what `dfm eval` and comparisons of runs are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from dfm_core.assembly import Assembler
from dfm_core.errors import CompositionError, DataError, UsageError
from dfm_core.evaluation.extraction import collect_features
from dfm_core.evaluation.image_sets import FolderImages, image_batches
from dfm_core.evaluation.measuring import MetricResult, RealScore, count, measure, real_score
from dfm_core.evaluation.reference_cache import ReferenceCache
from dfm_core.interfaces.autoencoder import state_digest
from dfm_core.interfaces.dataset import Dataset, Split
from dfm_core.interfaces.metric import Features, ImageBatch, Metric, MetricFacts
from dfm_core.media import PLURAL, check_metrics_fit, measured_medium, measured_size
from dfm_core.plugins.registry import Registry
from dfm_core.randomness import derive_generator
from dfm_core.run_evaluation import fixed_choice
from dfm_core.stages import Size
from dfm_core.training.distributed import World, check_same

PROBED = 8
"""Images whose bits tell one set of reference data from another, beside its description."""

Metrics = Mapping[str, Mapping[str, object]]
"""Name of a metric -> its options."""


@dataclass(frozen=True)
class Reference:
    """Real images or clips. described: where they come from, in plain data. most: how many are used at most."""

    dataset: Dataset
    described: Mapping[str, Any]
    most: int

    @cached_property
    def indices(self) -> list[int]:
        """Which images are used, in an order that depends on their number only (of shards: on their order, too).

        Of sections, which are clips and images, say: those of the first.
        """
        sections = self.dataset.sections()
        length = sections[0].length if sections else len(self.dataset)
        if self.dataset.shard_lengths() is not None:
            return fixed_choice(self.dataset, min(self.most, length))
        return torch.randperm(length, generator=derive_generator(0, "reference"))[: self.most].tolist()

    @property
    def size(self) -> Size:
        """Height × width, of clips frames × height × width."""
        return measured_size(self.dataset.facts.size)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Plain data that differs where the images do: description, numbers, bits of some images."""
        batch = next(image_batches(self.dataset, self.indices[:PROBED], device=torch.device("cpu")), None)
        if batch is None:
            raise DataError("none of the first images of the reference could be read")
        return {
            **self.described,
            "size": list(self.size),
            "images": len(self.dataset),
            "used": len(self.indices),
            "probe": state_digest({"images": batch.images}),
        }


def reference_of_run(assembler: Assembler, split: Split, most: int) -> Reference:
    """The data set that a run's configuration names. Raises DataError if it is empty, or no images."""
    dataset = assembler.dataset(split)
    if dataset.latents is not None:
        raise DataError("the run's data is stored latents; give the images that they were made of: --reference FOLDER")
    if len(dataset) == 0:
        raise DataError(f"the {split} split of the run's data is empty; use another --split or --reference FOLDER")
    choice = assembler.config.component("dataset").model_dump(mode="json")
    provider = {key: assembler.providers()["dataset"].get(key, "") for key in ("distribution", "version", "object")}
    described = {"dataset": choice, "provider": provider, "split": split, "seed": assembler.config.seed}
    return Reference(dataset, described, most)


def reference_of_folder(images: FolderImages, most: int) -> Reference:
    """The images of a folder."""
    return Reference(images, {"folder": images.options.path, "listing": images.listing}, most)


class Evaluator:
    """Some metrics and a reference. All processes of a world make one, and call its methods together."""

    def __init__(
        self,
        metrics: Metrics,
        reference: Reference,
        registry: Registry,
        world: World,
        *,
        cache: ReferenceCache,
        workers: int = 0,
        say: Callable[[str], None] = lambda message: None,
        warn: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Make the metrics; the reference is described when it is first needed. say: what is being done."""
        self.reference, self._registry, self._world = reference, registry, world
        self._cache, self._workers, self._say, self._warn = cache, workers, say, warn
        dataset = reference.dataset
        self.facts = MetricFacts(reference.size, dataset.channels, dataset.classes, world.device)
        if not metrics:
            raise UsageError("expected at least one metric")
        check_metrics_fit(metrics, reference.size, registry)
        self.metrics: dict[str, Metric] = {
            name: registry.create("metric", name, options, self.facts) for name, options in metrics.items()
        }
        variants = {name: dict(metric.variant) for name, metric in self.metrics.items()}
        check_same(world, {"reference": reference.identity, "metrics": variants})
        self._features: dict[str, Features] = {}
        self._real: dict[tuple[str, int], RealScore | None] = {}

    def evaluate(self, samples: Dataset) -> list[MetricResult]:
        """Measure samples with every metric; returns results in the first process, nothing in others.

        Raises CompositionError for images of another size or number of channels than the reference's.
        """
        self._check(samples)
        results = []
        for name, metric in self.metrics.items():
            reference = self._reference_features(name, metric)
            self._say(f"{name}: {len(range(len(samples))[: metric.most_images])} samples …")
            features = self._collect(metric, samples, list(range(len(samples))))
            if self._world.is_first:
                real = self._real_score(name, metric, reference, count(features))
                results.append(measure(name, metric, reference, features, real))
            self._world.gather(None)
        return results

    def _check(self, samples: Dataset) -> None:
        for what, wanted, got in (
            ("pixels", tuple(self.facts.size), tuple(measured_size(samples.facts.size))),
            ("channels", self.facts.channels, samples.channels),
        ):
            if wanted != got:
                raise CompositionError(f"the reference has {what} {wanted} and the samples {got}; expected the same")

    def _real_score(self, name: str, metric: Metric, reference: Features, samples: int) -> RealScore | None:
        if (name, samples) not in self._real:
            self._real[name, samples] = real_score(metric, reference, samples)
        return self._real[name, samples]

    def _reference_features(self, name: str, metric: Metric) -> Features:
        """Features of the reference (in the first process), from the cache or computed now; readies the metric."""
        if name in self._features:
            return self._features[name]
        self._prepare(name, metric)
        description = {**self._description(name), "features of": dict(metric.variant)}
        there = self._world.once(lambda: self._cache.place(description).is_dir())
        if there:
            features = self._cache.load(description) if self._world.is_first else {}
        else:
            noun = PLURAL[measured_medium(self.reference.size)]
            self._say(f"{name}: {len(self.reference.indices[: metric.most_images])} reference {noun} …")
            features = self._collect(metric, self.reference.dataset, self.reference.indices)
            self._world.once(lambda: self._cache.store(description, features))
        self._features[name] = features or {}
        return self._features[name]

    def _prepare(self, name: str, metric: Metric) -> None:
        """Let the first process learn what features need, unless the cache has it; all take it."""
        description = self._description(name) | {"state": True}

        def learn() -> bool:
            """Whether there is something to take."""
            if self._cache.load(description) is not None:
                return True
            state = metric.prepare(self._batches(name))
            if state:
                self._cache.store(description, state)
            return bool(state)

        learned = self._world.once(learn)
        metric.restore((self._cache.load(description) or {}) if learned else {})

    def _batches(self, name: str) -> Iterator[ImageBatch]:
        """Batches of the reference for a metric that learns; the others ask for none."""
        self._say(f"{name}: learning from the reference …")
        yield from image_batches(
            self.reference.dataset,
            self.reference.indices,
            device=self._world.device,
            workers=self._workers,
            warn=self._warn,
        )

    def _description(self, name: str) -> dict[str, Any]:
        resolved = self._registry.get("metric", name)
        plugin = {"distribution": resolved.plugin.distribution, "version": resolved.plugin.version}
        options = self.metrics[name].options.model_dump(mode="json")
        return {"metric": {"name": name, "options": options, **plugin}, "reference": self.reference.identity}

    def _collect(self, metric: Metric, dataset: Dataset, indices: list[int]) -> Features:
        return collect_features(
            metric,
            dataset,
            indices,
            self._world,
            scratch=self._cache.folder,
            labelled=dataset.classes == self.facts.classes,
            workers=self._workers,
            warn=self._warn,
        )
