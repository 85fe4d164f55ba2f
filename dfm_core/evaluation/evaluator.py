"""Metrics over sets of samples and one reference: what `dfm eval` and comparisons of runs are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from dfm_core.errors import CompositionError, DataError, DFMError, UsageError
from dfm_core.evaluation.extraction import described_parts, first_rows, parts_of
from dfm_core.evaluation.image_sets import Shown, image_batches
from dfm_core.evaluation.measuring import MetricResult, RealScore, measure, real_score
from dfm_core.evaluation.reference import Reference
from dfm_core.evaluation.reference_cache import ReferenceCache
from dfm_core.evaluation.reference_features import ReferenceFeatures, count, gathered
from dfm_core.interfaces.dataset import Dataset
from dfm_core.interfaces.metric import Features, ImageBatch, Metric, MetricFacts
from dfm_core.media import PLURAL, check_metrics_fit, measured_medium, measured_size
from dfm_core.plugins.registry import Registry
from dfm_core.training.distributed import World, check_same

Metrics = Mapping[str, Mapping[str, object]]
"""Name of a metric -> its options."""


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
        self._described: dict[str, ReferenceFeatures] = {}
        self._prepared: set[str] = set()
        self._real: dict[tuple[str, int], RealScore | None] = {}

    def evaluate(self, samples: Dataset, broken: int = 0) -> list[MetricResult]:
        """Measure samples with every metric; returns results in the first process, nothing in others.

        broken: how many of them held numbers that were not finite. Where that is more than a tenth, there is no number.
        Metrics of one `features_key` see the samples once for all of them. Raises CompositionError for images of
        another size or number of channels than the reference's.
        """
        self._check(samples)
        references = {name: self._reference_features(name, metric) for name, metric in self.metrics.items()}
        results, shared = [], dict[str, Features]()
        for name, metric in self.metrics.items():
            group = self._sharing(name)
            if name == group[0]:
                shared[name] = self._describe_samples(group, samples)
            features = first_rows(shared[group[0]], metric.most_images)
            held_out = self._held_out(name, metric, len(range(len(samples))[: metric.most_images]))
            if self._world.is_first:
                real = self._real_score(name, metric, references[name], held_out, count(features))
                result = measure(name, metric, references[name], features, real)
                results.append(result.with_broken(broken, len(samples), self._noun) if broken else result)
            if name == group[-1]:
                del shared[group[0]]
            self._world.gather(None)
        return results

    def _sharing(self, name: str) -> list[str]:
        """Names of the metrics, in their order, whose features are those of one of them, which is ready."""
        key = self.metrics[name].features_key
        if key is None:
            return [name]
        return [other for other, metric in self.metrics.items() if metric.features_key == key]

    def _describe_samples(self, group: list[str], samples: Dataset) -> Features:
        """Features of as many samples as any of some metrics takes."""
        total = max(len(range(len(samples))[: self.metrics[name].most_images]) for name in group)
        self._say(f"{', '.join(group)}: {total} samples …")
        (features,) = self._parts(self.metrics[group[0]], samples, range(total), [range(total)])
        if self._world.is_first and not features:
            raise DataError("no sample could be read, expected at least one")
        return features

    @property
    def _noun(self) -> str:
        return PLURAL[measured_medium(self.reference.size)]

    def _check(self, samples: Dataset) -> None:
        for what, wanted, got in (
            ("pixels", tuple(self.facts.size), tuple(measured_size(samples.facts.size))),
            ("channels", self.facts.channels, samples.channels),
        ):
            if wanted != got:
                raise CompositionError(f"the reference has {what} {wanted} and the samples {got}; expected the same")
        for name, metric in self.metrics.items():
            for what, number in (("samples", len(samples)), ("real", len(self.reference.indices))):
                if number < metric.fewest_images:
                    expected = f"more than {metric.fewest_images - 1} {self._noun} of either set"
                    raise UsageError(f"metric {name}: expected {expected}, got {number} ({what})")
            if metric.needs_labels and not (samples.classes and samples.classes == self.facts.classes):
                raise UsageError(
                    f"metric {name}: expected {self._noun} with the labels of the reference, got samples "
                    + (f"of {len(samples.classes)} classes" if samples.classes else "without labels")
                )

    def _held_out(self, name: str, metric: Metric, samples: int) -> Features:
        """Features of real images beside the reference, as many as there are samples (in the first process).

        Nothing where the reference has enough to take some out, twice as many as there are samples, or no others exist.
        """
        used = len(self.reference.indices[: metric.most_images])
        others = [] if 2 * samples <= used else self.reference.order(used + samples)[used:]
        if len(others) <= used // 2:
            return {}
        description = self._description_of_features(name, metric, len(others), len(others)) | {"after": used}
        return self._described_reference(name, metric, others, [range(len(others))], description).rows

    def _real_score(
        self, name: str, metric: Metric, reference: ReferenceFeatures, held_out: Features, samples: int
    ) -> RealScore | None:
        if (name, samples) not in self._real:
            self._real[name, samples] = real_score(metric, reference, held_out, samples)
        return self._real[name, samples]

    def _reference_features(self, name: str, metric: Metric) -> ReferenceFeatures:
        """Features of the reference (in the first process), from the cache or computed now; readies the metric."""
        if name not in self._prepared:
            self._prepare(name, metric)
            self._prepared.add(name)
        indices = self.reference.indices[: metric.most_images]
        parts = parts_of(len(indices), metric.kept_rows, self.reference.dataset.facts.size)
        description = self._description_of_features(name, metric, len(indices), parts[0].stop)
        return self._described_reference(name, metric, indices, parts, description)

    def _described_reference(
        self, name: str, metric: Metric, indices: list[int], parts: list[range], description: Mapping[str, Any]
    ) -> ReferenceFeatures:
        """Features of real images, from the cache or computed now. description: all that they depend on."""
        place = self._cache.place(description)
        if place.name not in self._described:
            # Processes that work together share the images: none of them may wait for another.
            waits = self._world.size == 1 and not place.is_dir()
            with self._cache.making(description) if waits else nullcontext():
                there = self._world.once(place.is_dir)  # perhaps made while this process waited
                if not there:
                    self._say(f"{name}: {len(indices)} reference {self._noun} …")
                make = partial(self._describe_reference, metric, indices, parts)
                self._described[place.name] = (self._load if there else make)(description)
        return self._described[place.name]

    def _load(self, description: Mapping[str, Any]) -> ReferenceFeatures:
        found = self._cache.load(description) if self._world.is_first else None
        return ReferenceFeatures.from_tensors(found or {})

    def _describe_reference(
        self, metric: Metric, indices: list[int], parts: list[range], description: Mapping[str, Any]
    ) -> ReferenceFeatures:
        described = self._parts(metric, self.reference.dataset, indices, parts, self.reference.shown)
        found = gathered(metric, (first_rows(part, None) for part in described))
        if self._world.is_first and not found.rows:
            raise DataError(f"none of the reference's {self._noun} could be read, expected at least one")
        self._world.once(lambda: self._keep(description, found))
        return found

    def _keep(self, description: Mapping[str, Any], found: ReferenceFeatures) -> None:
        try:
            self._cache.store(description, found.tensors())
        except DFMError as error:  # what was computed is there all the same
            self._warn(str(error))

    def _prepare(self, name: str, metric: Metric) -> None:
        """Let the first process learn what features need, unless the cache has it; all take it."""
        description = self._description(name) | {"state": True}

        def learn() -> bool:
            """Whether there is something to take."""
            if self._cache.load(description) is not None:
                return True
            with self._cache.making(description):
                if self._cache.load(description) is not None:  # made while this process waited
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
            shown=self.reference.shown,
        )

    def _description(self, name: str) -> dict[str, Any]:
        options = self.metrics[name].options.model_dump(mode="json")
        metric = {"name": name, "options": options, **self._plugin(name)}
        return {"metric": metric, "reference": self.reference.identity}

    def _description_of_features(self, name: str, metric: Metric, total: int, kept: int) -> dict[str, Any]:
        """All that a reference's features depend on: shared ones on no metric's name and options."""
        key = metric.features_key
        if key is None:
            described = {**self._description(name), "features of": dict(metric.variant)}
        else:
            shared = {"name": "features", "key": key, **self._plugin(name)}
            described = {"metric": shared, "reference": self.reference.identity}
        return {**described, "images": total, "kept": kept}

    def _plugin(self, name: str) -> dict[str, str]:
        plugin = self._registry.get("metric", name).plugin
        return {"distribution": plugin.distribution, "version": plugin.version}

    def _parts(
        self,
        metric: Metric,
        dataset: Dataset,
        indices: Sequence[int],
        parts: Sequence[range],
        shown: Shown | None = None,
    ) -> Iterator[Features]:
        return described_parts(
            metric,
            dataset,
            indices,
            parts,
            self._world,
            scratch=self._cache.folder,
            labelled=dataset.classes == self.facts.classes,
            workers=self._workers,
            warn=self._warn,
            shown=shown,
        )
