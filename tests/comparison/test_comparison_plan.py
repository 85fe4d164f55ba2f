"""What a comparison will do: compute, points, shared trainings; and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from comparison_files import TINY, shortened, tiny, write

from dfm_core.comparison.config import read_comparison
from dfm_core.comparison.plan import Plan, make_plan, record_of, take_up
from dfm_core.config.resolve import ConfigRequest, resolve_config
from dfm_core.errors import ConfigError, UsageError
from dfm_core.plugins.registry import default_registry

ROOT = Path(__file__).parents[2]
REGISTRY = default_registry()
CASCADED = {
    "runs": [
        {"share": 0.75, "preset": "cascaded", "stage_schedule": {"options": {"steps": [1]}}},
        {"share": 0.25, "preset": "cascaded-second", "stage_schedule": {"options": {"steps": [1, 2]}}},
    ],
    "backbone": {"options": {"depth": 1, "width": 32, "heads": 2, "token_grid": 4}},
}
NETWORK = TINY["base"]["backbone"]["options"]


def plan_of(**changes: Any) -> Plan:
    return make_plan(tiny(**changes), default_registry())


def cascaded() -> dict[str, Any]:
    runs = [{**run, "backbone": {"options": NETWORK}} for run in CASCADED["runs"]]  # type: ignore[dict-item]
    return {"runs": runs}


def test_all_variants_spend_the_same_compute_within_a_step() -> None:
    pyramid = {
        "preset": "pyramidal-flow",
        "stage_schedule": {"options": {"steps": [1, 2]}},
        "backbone": {"options": {"depth": 1, "width": 32, "heads": 2, "patch_size": 4}},
    }
    variants = {**TINY["variants"], "cascaded": cascaded(), "pyramidal-flow": pyramid}
    plan = plan_of(variants=variants, budget={"steps": 400})
    budget = 400 * plan.schedules["flow-matching"].flops[0]
    for name, schedule in plan.schedules.items():
        slack = sum(schedule.flops) / 2
        assert abs(schedule.total - budget) <= slack, name
        assert schedule.points[-1].flops == schedule.total
        for index, point in enumerate(schedule.points, 1 - len(schedule.points) + 2):
            assert abs(point.flops - budget * index / 2) <= slack
    first, second = plan.schedules["cascaded"].steps
    assert first * plan.schedules["cascaded"].flops[0] == pytest.approx(0.75 * budget, rel=0.01)
    assert len(plan.schedules["cascaded"].points) == 1  # the other falls into the first run
    assert plan.schedules["pyramidal-flow"].steps[0] > 400 > second


def test_a_budget_in_flops() -> None:
    plan = plan_of(budget={"flops": 1e8})
    assert all(abs(schedule.total - 1e8) <= sum(schedule.flops) / 2 for schedule in plan.schedules.values())
    with pytest.raises(ConfigError, match="expected steps or flops, got both"):
        plan_of(budget={"flops": 1e8, "steps": 3})
    with pytest.raises(ConfigError, match=r"'cascaded' has 2 runs.*budget.flops"):
        plan_of(variants={**TINY["variants"], "cascaded": cascaded()}, reference="cascaded")


def test_what_generation_alone_reads_shares_a_training() -> None:
    sweep = {"stage_schedule.options.thresholds": [0.5, 0.9], "sampling.cfg": [1.0, 2.0], "flow.standardize": [0, 1]}
    plan = plan_of(variants=None, sweep=sweep)
    assert len(plan.variants) == 8
    assert {variant.training for variant in plan.variants.values()} == {
        "thresholds=0.5, cfg=1.0, standardize=0",
        "thresholds=0.5, cfg=1.0, standardize=1",
    }


@pytest.mark.parametrize("option", ["thresholds", "shift"])
def test_a_sampler_that_walks_the_schedule_trains_anew_for_each(option: str) -> None:
    base = {**TINY["base"], "timestep_sampler": "trajectory"}
    values = {"thresholds": [0.5, 0.9], "shift": ["auto", "linear"]}[option]
    plan = plan_of(variants=None, sweep={f"stage_schedule.options.{option}": values}, base=base)
    assert len({variant.training for variant in plan.variants.values()}) == 2


def test_flags_lie_over_the_base_and_under_the_variants() -> None:
    request = ConfigRequest(settings=("training.batch_size=2", "decomposition.name=dct"))
    plan = make_plan(tiny(), default_registry(), request)
    config = plan.variants["haar"].config
    assert (config.training.batch_size, config.component("decomposition").name) == (2, "dwt")


def test_presets_may_stand_on_presets(tmp_path: Path) -> None:
    path = write(tmp_path / "own.yaml", {"preset": ["quickstart", "flow-matching"], "training": {"max_steps": 5}})
    config = resolve_config(ConfigRequest(files=(path,))).config
    assert (config.training.max_steps, config.training.batch_size) == (5, 8)
    assert config.component("decomposition").name == "identity"
    with pytest.raises(ConfigError, match="preset: expected the name of a preset, or a list of them, got 3"):
        resolve_config(ConfigRequest(files=(write(path, {"preset": 3}),)))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no variants": ({"variants": {}}, "variants: expected at least one"),
    "neither": ({"variants": None}, "expected either `variants` or `sweep`"),
    "both": ({"sweep": {"seed": [1]}}, "expected either `variants` or `sweep`"),
    "reference": ({"reference": "har"}, "Did you mean 'haar'?"),
    "seed": ({"variants": {"a": {"seed": 1}}}, "variant 'a': seed is not a variant's to say"),
    "steps": ({"variants": {"a": {"training": {"max_steps": 1}}}}, "training.max_steps is not a variant's to say"),
    "name": ({"variants": {"a/b": {}}}, "variant 'a/b': expected a name that a folder can have"),
    "key": ({"variants": {"a": {"trainig": {}}}}, "variant 'a': trainig: unknown key"),
    "preset": ({"variants": {"a": {"preset": "quick"}}}, "variant 'a': unknown preset 'quick'. Did you mean"),
    "option": ({"variants": {"a": {"decomposition": {"options": {"fitler": 1}}}}}, "Did you mean 'filter'?"),
    "shares": ({"variants": {"a": {"runs": [{"share": 0.5}]}}}, "summing to 1, got [0.5]"),
    "calls": (
        {"variants": {"a": {}, "b": {"stage_schedule": {"options": {"steps": [2, 2]}}}}},
        "the same calls of the network for an image, got a: 3; b: 4",
    ),
    "calls of a solver": (
        {"variants": {"a": {}, "b": {"sampling": {"solver": "heun"}}}},
        "the same calls of the network for an image, got a: 3; b: 6",
    ),
    "size": ({"variants": {"a": {}, "b": {"stages": [8, 32]}}}, "variants must have the same size"),
    "data": (
        {"variants": {"a": {}, "b": {"dataset": {"options": {"rotation": 0}}}}},
        "variants must have the same data set",
    ),
    "metric": ({"evaluation": {"metrics": "swdd"}}, "unknown metric 'swdd'. Did you mean 'swd'"),
    "metric option": ({"evaluation": {"metrics": [{"name": "swd", "options": {"bins": 1}}]}}, "unknown key"),
    "metric's path": (
        {"evaluation": {"metrics": "is"}},
        "evaluation.metrics.is.options.path: expected a value",
    ),
    "swept weights": (
        {"variants": None, "sweep": {"sampling.cfg": [1, 2]}, "evaluation": {**TINY["evaluation"], "cfg": 1.0}},
        "sampling.cfg is swept, and evaluation.cfg (--cfg) would measure every variant with its own",
    ),
    "metrics": ({"evaluation": {"metrics": ["swd", "swd"]}}, "each once (numbers in six digits), got [swd, swd]"),
    "no runs": ({"variants": {"a": {"runs": 5}}}, "variant 'a': runs: expected a list of trainings"),
    "a share that is none": ({"variants": {"a": {"runs": [{"share": True}]}}}, "summing to 1, got [True]"),
    "seed of the base": ({"base": {**TINY["base"], "seed": 3}}, "base: seed is not a variant's to say"),
    "endless": ({"budget": {"flops": float("inf")}}, "budget.flops: expected a finite number"),
    "rate": ({"learning_rates": {"values": [1e-3, -1.0]}}, "learning_rates.values.1: expected greater than 0"),
    "rate that is none": ({"learning_rates": {"values": [float("nan")]}}, "learning_rates.values.0: expected"),
    "rates in one folder": ({"learning_rates": {"values": [1e-3, 1.0000001e-3]}}, "got [0.001, 0.001]"),
    "weight": ({"evaluation": {**TINY["evaluation"], "cfg": -1.0}}, "evaluation.cfg.0: expected"),
    "number of seeds": ({"seeds": 3}, "seeds: expected a list of seeds such as [0, 1, 2], got 3"),
    "seed below 0": ({"seeds": [-1]}, "seeds.0: expected"),
    "swept sections": ({"variants": None, "sweep": {"sampling": [3, 4]}}, "sampling"),
    "seeds": ({"seeds": [1, 1]}, "seeds: expected at least one value, and each once"),
    "unknown": ({"varaints": {}}, "varaints: unknown key. Did you mean 'variants'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_is_wrong_is_refused(case: str, tmp_path: Path, rejected: Callable[..., str]) -> None:
    changes, message = WRONG[case]
    file = write(tmp_path / "wrong.yaml", {**TINY, **changes})
    assert message in rejected("compare", file)
    assert not Path("comparisons").exists()


def test_bad_arguments_are_refused(tiny_file: Path, tmp_path: Path, rejected: Callable[..., str]) -> None:
    assert "is not a file" in rejected("compare", "none.yaml")
    assert "--seeds: expected" in rejected("compare", tiny_file, "--seeds", "1,1")
    assert "--only 'har': expected one of flow-matching, haar. Did you mean 'haar'?" in rejected(
        "compare", tiny_file, "--only", "har"
    )
    assert "either a FILE or --sweep" in rejected("ablate")
    assert "give --seeds" in rejected("ablate", "--sweep", "flow.standardize=true,false", "--seed", "1")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert "is no folder of a comparison" in rejected("compare", tiny_file, "--output", tmp_path / "full")


def test_a_changed_file_is_refused_naming_what_changed(tmp_path: Path) -> None:
    folder, budget = tmp_path / "comparison", {"flops": 5e7}
    take_up(folder, plan_of(budget=budget))
    # What no result depends on may change: seeds, the reference, variants beside, the log.
    more = {**TINY["variants"], "more": {}}
    take_up(folder, plan_of(budget=budget, seeds=[0, 1], reference="haar", variants=more))
    take_up(folder, plan_of(budget=budget, base={**TINY["base"], "logging": {"log_every": 7}, "workers": 1}))
    changed = {**TINY["base"], "training": {**TINY["base"]["training"], "learning_rate": 2e-3}}
    with pytest.raises(ConfigError, match=r"variants.haar.runs.1.training.learning_rate: it has 0.001, got 0.002"):
        take_up(folder, plan_of(budget=budget, base=changed))
    with pytest.raises(ConfigError, match=r"evaluation.num: it has 12, got 13"):
        take_up(folder, plan_of(budget=budget, evaluation={**TINY["evaluation"], "num": 13}))
    with pytest.raises(ConfigError, match=r"runs.1.steps: it has \d+, got 2"):
        take_up(folder, plan_of(budget={"steps": 2}))
    with pytest.raises(UsageError, match="no folder of a comparison"):
        take_up(tmp_path, plan_of())


def test_the_quick_comparison_holds_schedule_and_timesteps_equal() -> None:
    """All but Pyramidal Flow, whose schedule and sampler have no counterpart: docs/baselines.md says so."""
    plan = make_plan(tiny(**{"variants": None, **shortened(ROOT / "examples" / "compare_quick.yaml")}), REGISTRY)
    for name, variant in plan.variants.items():
        for run in variant.runs:
            schedule, sampler = run.config.component("stage_schedule"), run.config.component("timestep_sampler")
            if name == "pyramidal-flow":
                assert schedule.options["shift"] == [1, 0.3]
                assert "current_location" not in sampler.options
                continue
            assert schedule.options["shift"] == "auto"
            assert sampler.options["current_location"] == -0.8


def test_each_of_several_processes_has_a_device_of_its_own_and_does_the_same() -> None:
    plan = make_plan(tiny(), REGISTRY)
    asked: list[str] = []

    def choose(device: str) -> str:
        asked.append(device)
        return "cuda:3"

    moved = plan.on_device(choose)
    assert asked == ["cpu", "cpu"]
    assert {run.config.device for variant in moved.variants.values() for run in variant.runs} == {"cuda:3"}
    assert moved.config("haar", 0, 1, None, Path("run")).device == "cuda:3"
    assert record_of(moved) == record_of(plan)


def test_the_grid_of_rates_is_the_quick_comparison_without_rates_of_its_own() -> None:
    quick, rates = (
        yaml.safe_load((ROOT / "examples" / f"compare_{name}.yaml").read_text()) for name in ("quick", "rates")
    )
    tried = rates.pop("learning_rates")["values"]
    assert len(tried) == 3
    for variant in quick["variants"].values():
        assert variant.pop("training", {"learning_rate": tried[0]})["learning_rate"] in tried
    assert rates == quick


@pytest.mark.parametrize("file", sorted((ROOT / "examples").rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_plans(file: Path) -> None:
    assert read_comparison(file).reference_name()
    small = shortened(file)
    settings = tiny(**{"variants": None, "evaluation": {}, **small})
    request = ConfigRequest(settings=("device=cpu", *(["backbone.options.depth=1"] if "sweep" in small else [])))
    plan = make_plan(settings, default_registry(), request)
    assert len({run.calls for variant in plan.variants.values() for run in variant.runs[-1:]}) == 1
    trainings = {variant.training for variant in plan.variants.values()}
    assert len(trainings) == (1 if file.stem in ("thresholds", "steps_per_stage", "guidance") else len(plan.variants))
    budget = plan.schedules[plan.reference].total
    for schedule in plan.schedules.values():
        assert abs(schedule.total - budget) <= sum(schedule.flops) / 2
