"""Whole comparisons of tiny variants: paired, resumable, the same numbers whatever interrupts them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from comparison_files import TINY, tiny, write
from PIL import Image
from torch import Tensor

from dfm_core.cli.app import main
from dfm_core.comparison.config import read_comparison
from dfm_core.comparison.evaluation import Measurer, result_file
from dfm_core.comparison.plan import make_plan
from dfm_core.comparison.results import as_data, collect
from dfm_core.comparison.runner import Comparison
from dfm_core.comparison.tables import markdown
from dfm_core.comparison.training import diverged_file
from dfm_core.config.resolve import ConfigRequest, Flag
from dfm_core.errors import UsageError
from dfm_core.evaluation import run_samples
from dfm_core.generation import initial_noise
from dfm_core.plugins.registry import default_registry
from dfm_core.randomness import BatchRandomness
from dfm_core.stages import StageLayout, StageShape
from dfm_core.training.learner import Learner
from dfm_core.training.progress import QuietReporter

INTERRUPTED = 130
Batches = dict[tuple[int, int], list[dict[str, Tensor]]]
"""(seed, step) -> what each variant was trained on."""


def compare(file: Path, output: Path, *flags: str) -> int:
    return main(["compare", str(file), "--output", str(output), "--quiet", *flags])


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Batches:
    """Fills with the batches of all trainings."""
    found: Batches = {}
    step = Learner.step

    def recorded(self: Learner, index: int, batch: Mapping[str, Tensor], measure: bool = False) -> Any:
        found.setdefault((self._seed, index), []).append({name: value.clone() for name, value in batch.items()})
        return step(self, index, batch, measure)

    monkeypatch.setattr(Learner, "step", recorded)
    return found


def test_a_comparison_is_paired_and_survives_interruptions(
    tiny_file: Path, tmp_path: Path, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compare(tiny_file, tmp_path / "whole", "--seeds", "0,1") == 0
    # Same data in the same order for all variants, and other data for another seed.
    for (_, index), seen in batches.items():
        assert len(seen) == (2 if index < 7 else 1)  # the cheaper variant has a step more
        assert all(torch.equal(seen[0][name], other[name]) for other in seen for name in ("image", "label"))
    assert not torch.equal(batches[0, 0][0]["image"], batches[1, 0][0]["image"])

    # Broken off without a word: in a training, and between two batches of samples.
    with monkeypatch.context() as patch:
        breaks = breaking(Learner.step, 12)
        patch.setattr(Learner, "step", breaks)
        assert compare(tiny_file, tmp_path / "broken", "--seeds", "0,1") == INTERRUPTED
    with monkeypatch.context() as patch:
        patch.setattr(run_samples, "generate_images", breaking(run_samples.generate_images, 5))
        assert compare(tiny_file, tmp_path / "broken", "--seeds", "0,1") == INTERRUPTED
    # What is known so far is written down, and no verdict while a seed is missing.
    so_far = json.loads((tmp_path / "broken" / "results.json").read_text())
    (table,) = so_far["metrics"]
    assert table["variants"]["flow-matching"]["values"].keys() == {"0"}
    assert table["variants"]["haar"]["verdict"] is None
    assert compare(tiny_file, tmp_path / "broken", "--seeds", "0,1") == 0
    whole, broken = ((tmp_path / name / "results.json").read_bytes() for name in ("whole", "broken"))
    assert whole == broken

    # Finished: nothing is done again, and one variant alone says the same, even where the runs were removed.
    trained = len(batches)
    batches.clear()
    shutil.rmtree(tmp_path / "whole" / "runs")
    assert compare(tiny_file, tmp_path / "whole", "--seeds", "0,1", "--only", "haar") == 0
    assert not batches
    assert trained
    assert (tmp_path / "whole" / "results.json").read_bytes() == whole
    check_results(tmp_path / "whole")

    # Fewer seeds than the tables have are told of, and a dry run sees what does not fit.
    warned = warnings_of(tiny_file, tmp_path / "whole", "--seeds", "1", "--dry-run")
    assert "also of seed 0: --seeds 0,1 keeps them" in warned
    other = write(tmp_path / "other.yaml", {**TINY, "evaluation": {**TINY["evaluation"], "num": 13}})
    assert "evaluation.num: it has 12, got 13" in warnings_of(other, tmp_path / "whole", "--dry-run", code=2)


def test_tables_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    """A folder in the place of a file, as good as a full disk: what is measured stays."""
    file = write(tmp_path / "once.yaml", {**TINY, "evaluation": {**TINY["evaluation"], "points": 1}})
    output = tmp_path / "out"
    assert compare(file, output, "--only", "haar") == 0
    (output / "results.md").unlink()
    (output / "results.md" / "in the way").mkdir(parents=True)
    said = warnings_of(file, output, code=1)
    assert "cannot write the tables into" in said
    assert "Traceback" not in said
    assert len(list(output.glob("evaluations/*/seed-0/*.json"))) == 2


def warnings_of(file: Path, output: Path, *flags: str, code: int = 0) -> str:
    """What `dfm compare` says on stderr, on one line."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        assert main(["compare", str(file), "--output", str(output), *flags]) == code
    return " ".join(said.getvalue().split())


def breaking(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    """The function, which at the call of that number is as if the process had been killed."""
    made = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal made
        made += 1
        if made == calls:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    return counted


def test_samples_of_another_process_stay(tmp_path: Path) -> None:
    """Two `--only` may run in one folder at once, each with samples of its own there."""
    other = tmp_path / "out" / "samples" / "0123456789abcdef" / "00000000-00000004.safetensors"
    file = write(tmp_path / "once.yaml", {**TINY, "evaluation": {**TINY["evaluation"], "points": 1}})
    assert compare(file, tmp_path / "out", "--only", "haar") == 0
    other.parent.mkdir(parents=True)
    other.write_text("somebody else's")
    assert compare(file, tmp_path / "out", "--only", "flow-matching") == 0
    assert [path.name for path in other.parent.parent.iterdir()] == [other.parent.name]
    assert other.read_text() == "somebody else's"


def ratios_of(values: dict[str, list[float]]) -> Tensor:
    haar, reference = (torch.tensor(values[name], dtype=torch.float64) for name in ("haar", "flow-matching"))
    return (haar / reference).log()


def check_results(folder: Path) -> None:
    results = json.loads((folder / "results.json").read_text())
    assert (results["reference"], results["seeds"], results["samples"]) == ("flow-matching", [0, 1], 12)
    assert {name: about["steps"] for name, about in results["variants"].items()} == {"flow-matching": [8], "haar": [7]}
    (table,) = results["metrics"]
    assert table["real"]["images"] == 12
    haar = table["variants"]["haar"]
    values = {name: list(variant["values"].values()) for name, variant in table["variants"].items()}
    logs = ratios_of(values)
    assert haar["log_ratio"]["mean"] == pytest.approx(float(logs.mean()), rel=1e-6)
    assert haar["log_ratio"]["error"] == pytest.approx(float(logs.std() / 2**0.5), rel=1e-6)
    assert haar["verdict"] in ("won", "lost", "open")
    assert table["variants"]["flow-matching"]["verdict"] is None
    for curve in table["curves"].values():
        assert len(curve) == 2
        assert all(set(point["values"]) == {"0", "1"} for point in curve)
    assert set(table["earlier"]) == {"1/2"}
    halfway = {name: list(curve[0]["values"].values()) for name, curve in table["curves"].items()}
    logs = ratios_of(halfway)
    early = table["earlier"]["1/2"]["haar"]
    assert early["log_ratio"]["mean"] == pytest.approx(float(logs.mean()), rel=1e-6)
    check_seeds(folder)
    page = (folder / "results.md").read_text()
    assert "| haar | 7 |" in page
    assert "real images against real ones" in page
    assert "beyond 12.7 standard errors" in page
    on_the_way = page.partition("on the way: log-ratio to flow-matching ± standard error")[2]
    assert f"| haar | {early['log_ratio']['mean']:+.3f} ± " in on_the_way
    with Image.open(folder / "convergence.png") as picture:
        assert min(picture.size) > 200
    assert not (folder / "samples").exists()
    assert len(list(folder.glob("evaluations/haar/seed-*/*.png"))) == 4


def check_seeds(folder: Path) -> None:
    """Samples are of the seed that the model was trained with; the real images are the same for all seeds."""
    found = [
        [json.loads(file.read_text()) for file in sorted(folder.glob(f"evaluations/haar/seed-{seed}/*.json"))]
        for seed in (0, 1)
    ]
    assert [[one["request"]["seed"] for one in of_seed] for of_seed in found] == [[0, 0], [1, 1]]
    first, *others = [one["results"][0]["real"] for of_seed in found for one in of_seed]
    assert all(other == first for other in others)


def test_the_real_images_do_not_depend_on_a_seed_of_the_configuration(tmp_path: Path) -> None:
    registry = default_registry()
    references = []
    for seed in (0, 5):
        plan = make_plan(tiny(), registry, ConfigRequest(flags=(Flag("--seed", "seed", seed),)))
        assert plan.variants["haar"].config.seed == seed
        references.append(Measurer(tmp_path, plan, registry, print, print)._reference.identity)
    assert references[0] == references[1]


def test_noise_is_paired_as_far_as_the_first_stages_have_the_same_shape() -> None:
    """Of an image that is generated, and of a step of training."""
    layouts = [
        StageLayout(tuple(StageShape((3, n, n), (3, n, n)) for n in sizes)) for sizes in ((8, 16), (8, 16, 32), (16,))
    ]
    generated = [initial_noise(layout, 3, [0, 1], torch.device("cpu")) for layout in layouts]
    trained = []
    for layout in layouts:
        generator = BatchRandomness(3, 5, 0, 4, 4).own("noise", "cpu")
        trained.append([torch.randn(4, *stage.shape, generator=generator) for stage in layout])
    for two, three, one in (generated, trained):
        assert all(torch.equal(a, b) for a, b in zip(two, three, strict=False))
        assert not torch.equal(two[1], one[0])


def test_several_runs_in_a_row_and_one_seed_without_a_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = TINY["base"]["backbone"]["options"]
    runs = [
        {"share": 0.75, "preset": "cascaded", "stage_schedule": {"options": {"steps": [1]}}},
        {"share": 0.25, "preset": "cascaded-second", "stage_schedule": {"options": {"steps": [1, 2]}}},
    ]
    variants = {
        "flow-matching": TINY["variants"]["flow-matching"],
        "cascaded": {"runs": [{**run, "backbone": {"options": network}} for run in runs]},
    }
    file = write(tmp_path / "rows.yaml", {**TINY, "variants": variants})
    assert compare(file, tmp_path / "out", "--only", "cascaded", "--json") == 0
    results = json.loads(capsys.readouterr().out)
    first, second = results["variants"]["cascaded"]["steps"]
    folder = tmp_path / "out" / "runs" / "cascaded" / "seed-0"
    assert (folder / "run-1" / "checkpoints" / f"step_{first:08d}").is_dir()
    assert (folder / "run-2" / "checkpoints" / f"step_{second:08d}").is_dir()
    # The other is not measured, so there is nothing to compare with.
    (table,) = results["metrics"]
    assert table["variants"]["flow-matching"]["spread"] is None
    assert (table["variants"]["cascaded"]["log_ratio"], table["variants"]["cascaded"]["verdict"]) == (None, None)
    assert (tmp_path / "out" / "convergence.png").is_file()


def test_a_rate_that_diverges_is_not_chosen(tmp_path: Path) -> None:
    rates = {"values": [1e-3, 1e30]}
    variants = {"flow-matching": TINY["variants"]["flow-matching"]}
    base = {**TINY["base"], "training": {**TINY["base"]["training"], "clip_norm": None}}
    file = write(tmp_path / "rates.yaml", {**TINY, "base": base, "variants": variants, "learning_rates": rates})
    output = tmp_path / "out"
    assert compare(file, output) == 0
    assert json.loads((output / "results.json").read_text())["variants"]["flow-matching"]["learning_rate"] == 1e-3
    assert (output / "evaluations" / "flow-matching" / "rate-1e+30" / "seed-0" / "diverged.txt").is_file()
    # It is known without the runs.
    before = (output / "results.json").read_bytes()
    shutil.rmtree(output / "runs")
    assert compare(file, output) == 0
    assert (output / "results.json").read_bytes() == before
    assert len(list(output.glob("evaluations/flow-matching/rate-0.001/seed-0/*.json"))) == 2


def test_where_every_rate_of_a_variant_diverges_the_others_go_on(tmp_path: Path) -> None:
    """The networks differ: weights of the wide one overflow at the first step."""
    base = {**TINY["base"], "training": {**TINY["base"]["training"], "clip_norm": None}}
    flow_matching = TINY["variants"]["flow-matching"]
    wild = {**flow_matching, "training": {"betas": [0.0, 0.0], "weight_decay": 1e38}}
    changes = {"base": base, "variants": {"flow-matching": flow_matching, "wild": wild}}
    file = write(tmp_path / "wild.yaml", {**TINY, **changes, "learning_rates": {"values": [1e-3, 2e-3]}})
    output = tmp_path / "out"
    assert compare(file, output, "--seeds", "0,1") == 0
    results = json.loads((output / "results.json").read_text())
    assert results["variants"]["wild"]["diverged"] == [0, 1]
    (table,) = results["metrics"]
    assert table["variants"]["flow-matching"]["values"].keys() == {"0", "1"}
    assert "| wild | - | - | diverged with seed 0, 1 |" in (output / "results.md").read_text().splitlines()


def test_a_seed_without_a_number_leaves_no_verdict(tiny_file: Path, tmp_path: Path) -> None:
    """The seeds that are left may be those that went well."""
    registry = default_registry()
    plan = make_plan(read_comparison(tiny_file), registry, seeds=(0, 1, 2))
    comparison = Comparison(tmp_path / "out", plan, registry, QuietReporter, print, print)
    for seed, (mine, theirs) in enumerate([(1.0, 2.0), (1.1, 2.2), (0.9, 1.9)]):
        for variant, value in (("haar", mine), ("flow-matching", theirs)):
            write_result(comparison, variant, None, value, "lower", seed)
    outcomes = {outcome.variant: outcome for outcome in collect(comparison).tables[0].outcomes}
    assert outcomes["haar"].verdict == "won"
    for bad in (None, -0.01):
        write_result(comparison, "haar", None, bad, "lower", 2)
        results = collect(comparison)
        outcomes = {outcome.variant: outcome for outcome in results.tables[0].outcomes}
        assert outcomes["haar"].verdict is None
        page = markdown(results)
        assert "(2 of 3 seeds) | - |" in page
        assert "no verdict where a seed is missing, has diverged, or has no number above 0" in page


@pytest.mark.parametrize("calls", [6, 9])
def test_a_cascade_goes_on_in_a_folder_that_was_moved(
    calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second training began with the weights of the first, which lay elsewhere."""
    runs = [
        {"share": 0.5, "preset": "cascaded", "stage_schedule": {"options": {"steps": [1]}}},
        {"share": 0.5, "preset": "cascaded-second", "stage_schedule": {"options": {"steps": [1, 2]}}},
    ]
    runs = [{**run, "backbone": {"options": TINY["base"]["backbone"]["options"]}} for run in runs]
    changes = {"variants": {"flow-matching": TINY["variants"]["flow-matching"], "cascaded": {"runs": runs}}}
    base = {**TINY["base"], "logging": {**TINY["base"]["logging"], "checkpoint_every": 1}}
    file = write(tmp_path / "cascade.yaml", {**TINY, "base": base, **changes})
    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", breaking(Learner.step, calls))
        assert compare(file, tmp_path / "before", "--only", "cascaded") == INTERRUPTED
    made = list((tmp_path / "before").glob("runs/cascaded/seed-0/run-2/checkpoints/step*"))
    assert bool(made) == (calls == 9)  # 5 steps of the first: it has just begun, or is under way
    (tmp_path / "before").rename(tmp_path / "after")
    assert compare(file, tmp_path / "after", "--only", "cascaded") == 0


def test_the_best_rate_is_chosen_by_the_first_metric(tiny_file: Path, tmp_path: Path) -> None:
    comparison = comparison_with_rates(tiny_file, tmp_path, [1e-3, 2e-3, 4e-3])
    with pytest.raises(UsageError, match="not all tried yet"):
        comparison.rate("haar")
    for better, best in (("lower", 2e-3), ("higher", 4e-3)):
        for rate, value in ((1e-3, 5.0), (2e-3, 3.0), (4e-3, 7.0)):
            write_result(comparison, "haar", rate, value, better)
        assert comparison.rate("haar") == best
    write_result(comparison, "haar", 4e-3, None, "higher")
    assert comparison.rate("haar") == 1e-3
    results = collect(comparison)
    assert as_data(results)["learning_rates"] == {
        **{"metric": "spectrum", "seed": 0},
        "values": {
            "flow-matching": {"0.001": None, "0.002": None, "0.004": None},
            "haar": {"0.001": 5.0, "0.002": 3.0, "0.004": None},
        },
    }
    grid = markdown(results).partition("## Learning rates: spectrum at the end with seed 0")[2]
    assert "| haar | 5 | 3 | - |" in grid.splitlines()
    diverged_file(comparison.folder, comparison.plan, "haar", 0, 1e-3).write_text("")
    assert comparison.rate("haar") == 2e-3


def comparison_with_rates(file: Path, folder: Path, rates: list[float]) -> Comparison:
    settings = read_comparison(file)
    grid = type(settings).model_validate({**settings.model_dump(), "learning_rates": {"values": rates}})
    registry = default_registry()
    return Comparison(folder, make_plan(grid, registry), registry, QuietReporter, print, print)


def write_result(
    comparison: Comparison, variant: str, rate: float | None, value: float | None, better: str, seed: int = 0
) -> None:
    point = comparison.plan.schedules[variant].points[-1]
    file = result_file(comparison.folder, variant, seed, rate, point, 1.0)
    file.parent.mkdir(parents=True, exist_ok=True)
    result = {"metric": "spectrum", "better": better, "values": {"spectrum": value}, "real": None, "variant": {}}
    file.write_text(json.dumps({"results": [result]}))


def test_an_ablation_of_sampling_trains_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = {"stage_schedule.options.steps": [[2, 1], [1, 2]]}
    file = write(tmp_path / "steps.yaml", {**TINY, "variants": None, "sweep": sweep})
    arguments = ["ablate", str(file), "--num", "8", "--points", "1", "--batch-size", "2", "--max-steps", "4"]
    assert main([*arguments, "--quiet", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert Path(results["folder"]) == Path("ablations/steps")
    assert {about["training"] for about in results["variants"].values()} == {"steps=2-1"}
    assert results["variants"]["steps=1-2"]["steps"] == [4]
    assert [path.name for path in Path("ablations/steps/runs").iterdir()] == ["steps=2-1"]
    values = [variant["values"]["0"] for variant in results["metrics"][0]["variants"].values()]
    assert values[0] != values[1]


def test_a_dry_run_writes_nothing(tiny_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tiny_file), "--dry-run", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert "haar           7      " in out
    assert "2 trainings of 2 variants, " in out
    assert main(["compare", str(tiny_file), "--dry-run", "--quiet", "--seeds", "0,1"]) == 0
    assert "4 trainings of 2 variants, " in capsys.readouterr().out
    assert not Path("comparisons").exists()
    flags = ["--stages", "8,16", "--device", "cpu", "--set", "backbone.options.depth=1", "--max-steps", "10"]
    sweep = ["--sweep", "decomposition=dct,dwt", "--sweep", "flow.standardize=true,false", "--together"]
    assert main(["ablate", *sweep, *flags, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert list(planned["variants"]) == [
        *("decomposition=dct, standardize=true", "decomposition=dwt, standardize=false"),
    ]
    assert planned["variants"]["decomposition=dct, standardize=true"]["steps"] == [10]
    assert main(["ablate", "--sweep", "sampling.cfg=1,2", *flags, "--dry-run", "--quiet"]) == 0
    assert "1 training of 2 variants, " in capsys.readouterr().out
