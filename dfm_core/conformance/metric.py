"""Laws of metrics: each takes a `Metric` and shows it small sets of images, or of clips."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from dfm_core.conformance.global_randomness import under_two_seeds
from dfm_core.conformance.law import LawBroken, LawSkipped, Measurement, at_most, law
from dfm_core.interfaces.metric import Features, ImageBatch, Metric, Values
from dfm_core.randomness import derive_generator

IMAGES = 24
_PART = 4
_RELATIVE = 1e-3

# Preparing may train a network: once a metric, not once a law.
_STATES: WeakKeyDictionary[Metric, Mapping[str, Tensor]] = WeakKeyDictionary()


@law("metric")
def features_have_one_row_an_image(metric: Metric) -> Measurement:
    """`features` gives finite tensors on the CPU, of one row an image and the same names for every batch."""
    batch = _prepared(metric)
    whole, part = _features(metric, batch), _features(metric, _part(batch, range(_PART)))
    if not whole or set(whole) != set(part):
        raise LawBroken(f"expected features of the same names for every batch, got {sorted(whole)} and {sorted(part)}")
    for name, rows in whole.items():
        if not isinstance(rows, Tensor) or rows.device.type != "cpu" or len(rows) != IMAGES:
            got = f"{tuple(rows.shape)} on {rows.device}" if isinstance(rows, Tensor) else type(rows).__name__
            raise LawBroken(f"features {name!r} of {IMAGES} images: expected {IMAGES} rows on the CPU, got {got}")
        if not bool(rows.isfinite().all()):
            raise LawBroken(f"features {name!r}: expected finite numbers")
    return Measurement()


@law("metric")
def images_do_not_influence_each_other(metric: Metric) -> Measurement:
    """Features of an image are the same in another batch, to float precision: they depend on image, label and index."""
    batch = _prepared(metric)
    together = _features(metric, batch)
    parts = [_features(metric, _part(batch, range(i, i + _PART))) for i in range(0, IMAGES, _PART)]
    if any(len(rows) != IMAGES for rows in together.values()):
        raise LawSkipped("features have not one row an image")
    apart = {name: torch.cat([part[name] for part in parts]) for name in together}
    difference = _difference(together, apart)
    what = f"features change by {difference:g} of their size with the rest of the batch"
    return at_most(difference, _RELATIVE, f"{what}; use no statistics of the batch, draw from a generator of the index")


@law("metric")
def no_global_randomness(metric: Metric) -> Measurement:
    """Features and numbers are the same bits twice; the global random state is neither read nor changed."""
    batch = _prepared(metric)

    def measured() -> tuple[Features, Values]:
        features = _features(metric, batch)
        return features, _measure(metric, features)(_features(metric, _noise(metric)))

    (first, numbers), (second, again) = under_two_seeds(measured, "measuring")
    if repr(numbers) != repr(again) or _difference(first, second) > 0:
        raise LawBroken("measuring twice gives other numbers: derive a generator from an option and the index")
    return Measurement()


@law("metric")
def inputs_are_not_changed(metric: Metric) -> Measurement:
    """Images, labels and features stay as they were given."""
    batch = _prepared(metric)
    images = batch.images.clone()
    features = metric.features(batch)
    kept = _copy(features)
    metric.against(features)(features)
    changed = max(float((batch.images - images).abs().max()), _difference(features, kept))
    return at_most(changed, 0, f"what was given changed by {changed:g}: use no in-place operation on it")


@law("metric")
def numbers_are_finite(metric: Metric) -> Measurement:
    """Measuring gives finite floats, of the same names for any samples."""
    features = _features(metric, _prepared(metric))
    measure = _measure(metric, features)
    same, other = measure(features), measure(_features(metric, _noise(metric)))
    if not same or list(same) != list(other):
        raise LawBroken(f"expected numbers of the same names for any samples, got {list(same)} and {list(other)}")
    for name, value in (*same.items(), *other.items()):
        if not isinstance(value, float) or not math.isfinite(value):
            raise LawBroken(f"{name}: expected a finite float, got {value!r}")
    return Measurement()


@law("metric")
def the_order_of_images_does_not_matter(metric: Metric) -> Measurement:
    """Rows of the features in another order give the same numbers, to float precision."""
    features, samples = _features(metric, _prepared(metric)), _features(metric, _noise(metric))
    turned = {name: rows.flip(0) for name, rows in samples.items()}
    measure = _measure(metric, features)
    before, after = measure(samples), measure(turned)
    pairs = [(value, after[name]) for name, value in before.items() if math.isfinite(value)]
    worst = max((abs(one - other) / max(1e-6, abs(one)) for one, other in pairs), default=0.0)
    return at_most(worst, _RELATIVE, f"numbers change by {worst:g} of their size with the order of the samples")


@law("metric")
def a_state_makes_another_instance_the_same(metric: Metric) -> Measurement:
    """Another instance, given the state that `prepare` returned, describes images by the same features."""
    batch = _prepared(metric)
    other = type(metric)(metric.options, metric.facts)
    other.restore({name: value.clone() for name, value in _STATES[metric].items()})
    difference = _difference(_features(metric, batch), _features(other, batch))
    what = f"features differ by {difference:g} of their size in another instance with the same state"
    return at_most(difference, 0, f"{what}; return from prepare all that it learns, and take it in restore")


@law("metric")
def condensed_rows_count_as_rows(metric: Metric) -> Measurement:
    """Where a metric condenses rows of a reference, numbers are those of all rows, to float precision."""
    features, samples = _features(metric, _prepared(metric)), _features(metric, _noise(metric))
    if metric.kept_rows is None:
        return Measurement()
    state: dict[str, Tensor] = {}
    for start in range(IMAGES // 2, IMAGES, _PART):
        state = metric.condense({name: rows[start : start + _PART].clone() for name, rows in features.items()}, state)
    kept = {name: rows[: IMAGES // 2] for name, rows in features.items()}
    if taken := sorted(set(state) & set(kept)):
        raise LawBroken(f"condense returned {', '.join(taken)}: give its tensors other names than the features have")
    whole, less = _measure(metric, features)(samples), _measure(metric, {**kept, **state})(samples)
    worst = max(abs(value - less[name]) / max(1e-6, abs(value)) for name, value in whole.items())
    return at_most(worst, _RELATIVE, f"numbers change by {worst:g} of their size where rows are condensed")


@law("metric", requires="compares")
def the_reference_itself_is_better_than_noise(metric: Metric) -> Measurement:
    """The reference, measured against itself, is at least as good as images of uniform noise."""
    features = _features(metric, _prepared(metric))
    measure = _measure(metric, features)
    (name, same), *_ = measure(features).items()
    noise = measure(_features(metric, _noise(metric)))[name]
    if (same > noise) if metric.better == "lower" else (same < noise):
        raise LawBroken(
            f"{name} of the reference against itself is {same:g}, of noise {noise:g}, and {metric.better} is better: "
            "see that the first number is the one that counts, and that `better` is right"
        )
    return Measurement()


@law("metric", requires="compares")
def numbers_depend_on_the_reference(metric: Metric) -> Measurement:
    """The same samples against another reference give another number."""
    features, noise = _features(metric, _prepared(metric)), _features(metric, _noise(metric))
    (name, one), *_ = _measure(metric, features)(noise).items()
    other = _measure(metric, noise)(noise)[name]
    if one == other:
        raise LawBroken(f"{name} is {one:g} whatever the reference: compare with it, or declare compares=False")
    return Measurement()


def _prepared(metric: Metric) -> ImageBatch:
    """Prepare a metric with the images, unless that was done; return them."""
    batch = _images(metric)
    if metric not in _STATES:
        with torch.random.fork_rng(devices=[]):
            state = metric.prepare(iter([_images(metric)]))
        _STATES[metric] = {name: value.clone() for name, value in state.items()}
        metric.restore(state)
    return batch


def _images(metric: Metric) -> ImageBatch:
    """Smooth images in two hues, which are their classes; clips that change smoothly from their first frame on."""
    facts = metric.facts
    generator = derive_generator(0, "metric laws")
    times = [2] * (len(facts.size) - 2)
    coarse = torch.rand(IMAGES, facts.channels, *times, 4, 4, generator=generator).mul_(1.2).sub_(0.6)
    labels = torch.arange(IMAGES) % max(1, len(facts.classes))
    images = F.interpolate(coarse, facts.size, mode="trilinear" if times else "bilinear", align_corners=False)
    images[:, 0] += 0.3 * (torch.arange(IMAGES) % 2).reshape(-1, *[1] * len(facts.size))
    return _batch(metric, images, labels)


def _noise(metric: Metric) -> ImageBatch:
    facts = metric.facts
    generator = derive_generator(1, "metric laws")
    images = torch.rand(IMAGES, facts.channels, *facts.size, generator=generator).mul_(2).sub_(1)
    return _batch(metric, images, torch.arange(IMAGES) % max(1, len(facts.classes)))


def _batch(metric: Metric, images: Tensor, labels: Tensor) -> ImageBatch:
    rounded = images.clamp(-1, 1).add(1).mul(127.5).round().div(127.5).sub(1)
    device = metric.facts.device
    return ImageBatch(
        rounded.to(device), labels.to(device) if metric.facts.classes else None, tuple(range(len(images)))
    )


def _part(batch: ImageBatch, rows: range) -> ImageBatch:
    chosen = slice(rows.start, rows.stop)
    labels = None if batch.labels is None else batch.labels[chosen].clone()
    return replace(batch, images=batch.images[chosen].clone(), labels=labels, indices=batch.indices[chosen])


def _features(metric: Metric, batch: ImageBatch) -> Features:
    """Features of a batch; a copy is handed out, so that a metric that writes into it breaks one law only."""
    return metric.features(_part(batch, range(len(batch.indices))))


def _measure(metric: Metric, reference: Features) -> Callable[[Features], Values]:
    """What measures samples against a reference; copies are handed out."""
    measure = metric.against(_copy(reference))
    return lambda samples: measure(_copy(samples))


def _copy(features: Features) -> Features:
    return {name: rows.clone() for name, rows in features.items()}


def _difference(first: Features, second: Features) -> float:
    """Largest difference, relative to the largest magnitude of its tensor."""
    differences = [
        float((rows.double() - second[name].double()).abs().max() / rows.double().abs().max().clamp_min(1e-6))
        for name, rows in first.items()
    ]
    return max(differences, default=0.0)
