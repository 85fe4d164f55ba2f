"""A comparison, from its plan to its results: trainings and measurements, each done once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dfm_core.comparison.budget import Point
from dfm_core.comparison.claims import claimed, share
from dfm_core.comparison.evaluation import Measurer, read_results, remove_if_empty, result_file
from dfm_core.comparison.plan import Plan
from dfm_core.comparison.training import has_diverged, train_variant, training_folder
from dfm_core.errors import UsageError, suggest
from dfm_core.plugins.registry import Registry
from dfm_core.training.progress import Reporter


@dataclass(frozen=True)
class Job:
    """A training and its measurements. only_last: measured at its end only."""

    variant: str
    seed: int
    rate: float | None
    only_last: bool = False

    def __str__(self) -> str:
        at = "" if self.rate is None else f", learning rate {self.rate:g}"
        return f"{self.variant}: seed {self.seed}{at}"


class EveryRateDivergedError(UsageError):
    """A variant has no results, whatever its learning rate."""


class Comparison:
    """A plan in its folder. Whatever is finished there is not done again.

    make_reporter: for each training. say: what is being done. warn: what should be known. finished: called after each
    training that this process has measured.
    """

    def __init__(
        self,
        folder: Path,
        plan: Plan,
        registry: Registry,
        make_reporter: Callable[[], Reporter],
        say: Callable[[str], None],
        warn: Callable[[str], None],
        finished: Callable[[Comparison], None] = lambda comparison: None,
    ) -> None:
        self.folder, self.plan, self._finished = folder, plan, finished
        self._registry, self._make_reporter, self._say = registry, make_reporter, say
        self._measurer = Measurer(folder, plan, registry, say, warn)

    def check(self, only: Sequence[str] = ()) -> None:
        """Raise UsageError for a variant that there is not; and see that all is there to measure with.

        Raises DataError and errors of the metrics. Where all is measured, nothing is needed.
        """
        for name in only:
            if name not in self.plan.variants:
                known = list(self.plan.variants)
                raise UsageError(f"--only {name!r}: expected one of {', '.join(known)}.{suggest(name, known)}")
        if any(self._lacks(name, seed) for name in only or self.plan.variants for seed in self.plan.seeds):
            self._measurer.prepare()

    def run(self, only: Sequence[str] = ()) -> None:
        """Train and measure what is missing; only: of these variants. Raises TrainingInterrupted.

        Seed by seed, so that early results are of all variants. Other processes that do the same in this folder share
        the work; all return when everything is done.
        """
        self.check(only)
        names = [name for name in self.plan.variants if not only or name in only]
        if self.plan.rates != (None,):
            self._share(Job(name, self.plan.rate_seed, rate, True) for name in names for rate in self.plan.rates)
        rates: dict[str, float | None] = {}
        for name in names:
            try:
                rates[name] = self.rate(name)
            except EveryRateDivergedError as error:
                self._say(f"{error}; the others go on")
                continue
            if rates[name] is not None:
                self._say(f"{name}: learning rate {rates[name]:g}")
        self._share(Job(name, seed, rate) for seed in self.plan.seeds for name, rate in rates.items())
        remove_if_empty(self.folder)

    def rate(self, variant: str) -> float | None:
        """The learning rate that was chosen for a variant: of the best first metric; None where there is no choice.

        Raises UsageError if the grid is not done, EveryRateDivergedError if all of it has diverged.
        """
        scores = {rate: self._score(variant, rate) for rate in self.plan.rates}
        tried = {rate: score for rate, score in scores.items() if score is not None}
        if self.plan.rates == (None,):
            return None
        if len(tried) < len(scores):
            raise UsageError(f"the learning rates of {variant!r} are not all tried yet")
        rate = min(tried, key=lambda rate: tried[rate])
        if not math.isfinite(tried[rate]):
            raise EveryRateDivergedError(f"every learning rate of {variant!r} diverged: {', '.join(map(str, tried))}")
        return rate

    def _lacks(self, variant: str, seed: int) -> bool:
        """Whether something of a variant is not measured yet, as far as is known."""
        try:
            rate = self.rate(variant)
        except EveryRateDivergedError:
            return False
        except UsageError:
            return True
        return bool(self._missing(Job(variant, seed, rate)))

    def _missing(self, job: Job) -> list[tuple[Point, float]]:
        """The points and guidance weights at which a training is not measured yet; none of one that diverged."""
        if has_diverged(self.folder, self.plan, job.variant, job.seed, job.rate):
            return []
        points = self.plan.schedules[job.variant].points[-1 if job.only_last else 0 :]
        wanted = itertools.product(points, self.plan.weights(job.variant))
        return [at for at in wanted if not result_file(self.folder, job.variant, job.seed, job.rate, *at).is_file()]

    def _share(self, jobs: Iterable[Job]) -> None:
        share(jobs, self._do, lambda left: self._say(f"other processes are at {'; '.join(map(str, left))}: waiting"))

    def _do(self, job: Job) -> bool:
        """Train and measure what is missing, unless another process is at it; where all is measured, runs may be gone.

        Returns False where another process is at it.
        """
        if not self._missing(job):
            return True
        training = training_folder(self.folder, self.plan, job.variant, job.seed, job.rate)
        with claimed(training) as own:
            if own:
                self._train_and_measure(job)
                self._finished(self)
            return own

    def _train_and_measure(self, job: Job) -> None:
        variant, seed, rate = job.variant, job.seed, job.rate
        missing = self._missing(job)
        if missing and train_variant(
            self.folder, self.plan, variant, seed, rate, self._registry, self._make_reporter, self._say
        ):
            for point, weight in missing:
                self._measurer.measure(variant, seed, rate, point, weight)

    def _score(self, variant: str, rate: float | None) -> float | None:
        """The first metric at the end, small ones good: infinite if it diverged, None if it is not known yet."""
        seed, metric = self.plan.rate_seed, self.plan.metrics[0].name
        if has_diverged(self.folder, self.plan, variant, seed, rate):
            return math.inf
        point, weight = self.plan.schedules[variant].points[-1], self.plan.weights(variant)[0]
        file = result_file(self.folder, variant, seed, rate, point, weight)
        if not file.is_file():
            return None
        result = read_results(file)[metric]
        value = next(iter(result["values"].values()))
        return math.inf if value is None else value if result["better"] == "lower" else -value
