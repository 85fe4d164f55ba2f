"""Every law over the metrics that need no files, and a broken metric for every law."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping

import pytest
import torch
from torch import Tensor

from dfm_core.conformance import LawBroken, LawSkipped, laws_of
from dfm_core.conformance.cases import cases_of
from dfm_core.conformance.law import Law
from dfm_core.errors import PluginError
from dfm_core.interfaces.metric import Features, ImageBatch, Metric, MetricFacts, Values
from dfm_core.plugins import Options
from dfm_core.plugins.registry import Registry
from dfm_core.randomness import derive_generator

LAWS = {law.name: law for law in laws_of("metric")}
SMALL: dict[str, dict[str, object]] = {
    "swd": {"patches": 8, "directions": 32},
    "spectrum": {"bands": 3},
    "fd": {"steps": 5},
    "motion": {},
    "precision_recall": {"steps": 5, "neighbours": 2},
}


@pytest.fixture(scope="module")
def metrics() -> dict[str, list[Metric]]:
    """Each metric in each case, built once."""
    registry = Registry.discover({})
    return {
        name: [
            registry.create("metric", name, options, case.facts)
            for case in cases_of("metric")
            if case.concerns(registry.get("metric", name).spec)
        ]
        for name, options in SMALL.items()
    }


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_metric_holds_law(law: Law, name: str, metrics: dict[str, list[Metric]]) -> None:
    for metric in metrics[name]:
        law.check(metric)


def mean_colour(batch: ImageBatch) -> Tensor:
    return batch.images.mean((-2, -1)).cpu()


class Good(Metric):
    """Distance of mean colours, centred at the reference's; the broken ones change one thing."""

    def __init__(self) -> None:
        super().__init__(Options(), MetricFacts((32, 32), 3, ("first", "second")))
        self.centre = torch.zeros(3)

    def prepare(self, reference: Iterable[ImageBatch]) -> dict[str, Tensor]:
        return {"centre": torch.cat([mean_colour(batch) for batch in reference]).mean(0)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.centre = state["centre"].clone()

    def features(self, batch: ImageBatch) -> Features:
        jitter = [torch.rand(1, generator=derive_generator(0, index)) for index in batch.indices]
        return {"colour": mean_colour(batch) - self.centre + 0.01 * torch.stack(jitter)}

    def against(self, reference: Features) -> Callable[[Features], Values]:
        expected, spread = reference["colour"].mean(0), reference["colour"].std(0)

        def measure(samples: Features) -> Values:
            spreads = float((samples["colour"].std(0) - spread).abs().sum())
            return {"colour": float((samples["colour"].mean(0) - expected).abs().sum()) + spreads, "spread": spreads}

        return measure


class Made(Good):
    """Instances are made as core makes them."""

    def __init__(self, options: Options | None = None, facts: MetricFacts | None = None) -> None:
        super().__init__()


class DropsARow(Made):
    def features(self, batch: ImageBatch) -> Features:
        return (
            {"colour": super().features(batch)["colour"][:-1]} if len(batch.indices) > 20 else super().features(batch)
        )


class OtherNames(Made):
    def features(self, batch: ImageBatch) -> Features:
        found = super().features(batch)
        return found if len(batch.indices) > 20 else {**found, "few": found["colour"]}


class OfTheBatch(Made):
    def features(self, batch: ImageBatch) -> Features:
        rows = super().features(batch)["colour"]
        return {"colour": rows + rows.mean(0)}


class OfGlobalState(Made):
    def features(self, batch: ImageBatch) -> Features:
        torch.rand(1)
        return super().features(batch)


class Writing(Made):
    def features(self, batch: ImageBatch) -> Features:
        found = super().features(batch)
        batch.images.clamp_(-0.2, 0.2)
        return found


class NotANumber(Made):
    def against(self, reference: Features) -> Callable[[Features], Values]:
        measure = super().against(reference)
        return lambda samples: {**measure(samples), "more": float("nan")}


class InOrder(Made):
    def against(self, reference: Features) -> Callable[[Features], Values]:
        measure = super().against(reference)
        return lambda samples: {**measure(samples), "first": float(samples["colour"][0, 0])}


class Forgetful(Made):
    """Takes a state only where it was learnt."""

    learnt = False

    def prepare(self, reference: Iterable[ImageBatch]) -> dict[str, Tensor]:
        self.learnt = True
        return super().prepare(reference)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        if self.learnt:
            super().restore(state)


class Losing(Made):
    kept_rows = 8

    def condense(self, rows: Features, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {}


class UpsideDown(Made):
    better = "higher"


class Alone(Made):
    def against(self, reference: Features) -> Callable[[Features], Values]:
        return lambda samples: {"colour": -float(samples["colour"].std()), "spread": 0.0}


BROKEN: dict[str, type[Made]] = {
    "features_have_one_row_an_image": OtherNames,
    "images_do_not_influence_each_other": OfTheBatch,
    "no_global_randomness": OfGlobalState,
    "inputs_are_not_changed": Writing,
    "numbers_are_finite": NotANumber,
    "the_order_of_images_does_not_matter": InOrder,
    "a_state_makes_another_instance_the_same": Forgetful,
    "condensed_rows_count_as_rows": Losing,
    "the_reference_itself_is_better_than_noise": UpsideDown,
    "numbers_depend_on_the_reference": Alone,
}


def test_every_law_has_a_broken_metric() -> None:
    assert set(BROKEN) == set(LAWS)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_metric_that_is_not_broken_holds_law(law: Law) -> None:
    law.check(Made())


def broken_laws(metric: type[Made]) -> dict[str, str]:
    broken = {}
    for law in LAWS.values():
        with contextlib.suppress(LawSkipped):
            try:
                law.check(metric())
            except LawBroken as error:
                broken[law.name] = str(error)
    return broken


@pytest.mark.parametrize("broken", BROKEN)
def test_broken_metric_fails_its_law_only(broken: str) -> None:
    assert set(broken_laws(BROKEN[broken])) == {broken}


def test_a_row_too_few_is_one_fault() -> None:
    found = broken_laws(DropsARow)
    assert set(found) == {"features_have_one_row_an_image"}
    assert "expected 24 rows on the CPU, got (23, 3)" in found["features_have_one_row_an_image"]


def test_names_of_features_are_no_names_of_a_state() -> None:
    class Overwriting(Losing):
        def condense(self, rows: Features, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return dict(rows)

    assert "give its tensors other names" in broken_laws(Overwriting)["condensed_rows_count_as_rows"]


def test_rows_that_nobody_condenses_are_an_error() -> None:
    with pytest.raises(PluginError, match="Made keeps some rows of a reference, so it needs a method condense"):
        Made().condense({}, {})


def test_a_state_that_nobody_takes_is_an_error() -> None:
    class Careless(Made):
        restore = Metric.restore

    with pytest.raises(PluginError, match=r"Careless\.prepare returns a state, so it needs a method restore"):
        Careless().restore({"centre": torch.zeros(3)})
