"""Rows of the paper's tables: each is a plan on latents of a tiny autoencoder, and says the paper's number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import dfm_plugins
from dfm_core.assembly import Assembler
from dfm_core.cli.app import main
from dfm_core.composition import DataDescription
from dfm_core.config.resolve import ConfigRequest, flatten, resolve_config
from dfm_core.images import save_png, to_pixels
from dfm_core.plan import TrainingPlan, plan_training
from dfm_core.plugins.registry import default_registry

FOLDER = Path(dfm_plugins.__file__).parent / "presets" / "paper"
SHARED = {"paper", "paper-ablation"}
ROWS = sorted({path.stem for path in FOLDER.glob("*.yaml")} - SHARED)
QUICK = {
    *("paper-512-dfm", "paper-512-flow-matching", "paper-512-cascaded", "paper-512-cascaded-second"),
    *("paper-kinetics-dfm", "paper-kinetics-cascaded", "paper-kinetics-pyramidal-flow"),
    *("paper-1024-pyramidal-flow", "paper-1b-tied", "paper-1c-unmasked", "paper-1d-mlp", "paper-1e-batch-size"),
    "paper-1f-256-512-1024",
}
"""The others differ from these by numbers."""
SMALLER = ("backbone.options.depth=1", "backbone.options.width=64", "backbone.options.heads=2", "training.batch_size=1")
STEPS = {
    "512": 500_000,
    "1024": 350_000,
    "1a": 600_000,
    "1b": 600_000,
    "1c": 600_000,
    "1d": 600_000,
    "1e": 600_000,
    "1f": 600_000,
    "4": 400_000,
}
STEPS |= {"kinetics": 200_000}


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny autoencoders that have the channels of FLUX's and CogVideoX's."""
    pytest.importorskip("diffusers")
    from tiny_autoencoders import save_tiny

    folder = tmp_path_factory.mktemp("autoencoder")
    for name in ("flux", "cogvideox"):
        save_tiny(folder / name, name)
    return folder


def family_of(name: str) -> str:
    """Whose autoencoder a row takes."""
    return "cogvideox" if "kinetics" in name else "flux"


def plan_of(name: str, autoencoder: Path) -> tuple[TrainingPlan, int]:
    settings = (f"autoencoder.options.path={autoencoder / family_of(name)}", *SMALLER)
    config = resolve_config(ConfigRequest(presets=(name,), settings=settings)).config
    assert (config.training.learning_rate, config.training.warmup_steps, config.training.ema_decay) == (
        *(1e-4, 10_000, 0.9999),
    )
    return plan_training(
        Assembler(config, default_registry()), DataDescription(3, ("a", "b"))
    ), config.training.max_steps


@pytest.mark.parametrize("name", [row if row in QUICK else pytest.param(row, marks=pytest.mark.slow) for row in ROWS])
def test_a_row_is_a_plan(name: str, autoencoder: Path) -> None:
    plan, steps = plan_of(name, autoencoder)
    size = name.split("-")[1]
    if "cascaded" in name:
        assert steps == STEPS[size] * (0.2 if name.endswith("second") else 0.8)
        assert plan.generation_steps == (40 if name.endswith("second") else 20)
    else:
        assert (steps, plan.generation_steps) == (STEPS[size], 40)
    if size == "kinetics":
        assert plan.stages[-1]["resolution"] == "5x64x64"
        coarse = "5x16x16 = 1280, " if "pyramidal" in name else ""
        assert plan.backbone["tokens"] == f"{coarse}5x32x32 = 5120"
        return
    finest = 1024 if size == "1024" or size == "1f" else 512
    assert plan.stages[-1]["resolution"] == str(finest // 4)  # the tiny autoencoder divides by 4


@pytest.mark.parametrize("size", ["512", "1024", "kinetics"])
def test_pyramidal_flow_spends_what_dfm_does(size: str, autoencoder: Path) -> None:
    pyramidal, ours = (compute_of(f"paper-{size}-{system}", autoencoder) for system in ("pyramidal-flow", "dfm"))
    assert pyramidal == pytest.approx(ours, rel=0.02)


def compute_of(name: str, autoencoder: Path) -> float:
    """FLOPs of all steps of a row at its full size and depth: they are affine in the depth, and linear in the batch.

    Images: counted on pixels half as large, which the tiny autoencoder's 4 makes the latents of the real one's 8.
    """
    place, depth = f"autoencoder.options.path={autoencoder / family_of(name)}", 28
    row = resolve_config(ConfigRequest(presets=(name,), settings=(place,))).config
    divisor = 1 if "kinetics" in name else 2
    sizes = f"stages={[[*size[:-2], *(side // divisor for side in size[-2:])] for size in row.stages]}"
    flops = []
    for shallow in (1, 2):
        settings = (place, sizes, f"backbone.options.depth={shallow}", "training.batch_size=4")
        config = resolve_config(ConfigRequest(presets=(name,), settings=settings)).config
        flops.append(plan_training(Assembler(config, default_registry()), DataDescription(3, ("a", "b"))).flops)
    of_a_step = flops[0] + (depth - 1) * (flops[1] - flops[0])
    return of_a_step / 4 * row.training.batch_size * row.training.max_steps


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_the_paper_s_number(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    assert re.search(r"FID\d+K \d+\.\d+, FDD\d+K \d+\.\d+, (IS|FVD10K) \d+\.\d", lines[1]) or name.endswith("second")


def dry_run(name: str, autoencoder: Path, *flags: str) -> int:
    tiny = [f"autoencoder.options.path={autoencoder / family_of(name)}", *SMALLER]
    settings = [part for setting in tiny for part in ("--set", setting)]
    return main(["train", "--preset", name, *settings, "--device", "cpu", *flags, "--dry-run"])


SHOWN = {"paper-512-dfm", "paper-1d-mlp"}


@pytest.mark.parametrize("name", [row if row in SHOWN else pytest.param(row, marks=pytest.mark.slow) for row in ROWS])
def test_a_dry_run_of_a_row(name: str, autoencoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = "moving_shapes" if "kinetics" in name else "shapes"
    assert dry_run(name, autoencoder, "--dataset", data, "--set", "dataset.options={}") == 0
    steps = resolve_config(ConfigRequest(presets=(name,))).config.training.max_steps
    assert f"in {steps} steps" in capsys.readouterr().out


def test_a_row_wants_its_data(autoencoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No row takes the shapes that are the default elsewhere."""
    for name, folder in (("paper-512-dfm", "imagenet"), ("paper-kinetics-flow-matching", "kinetics")):
        assert dry_run(name, autoencoder) == 1
        assert re.search(rf"no folder (or file )?{tmp_path / 'data' / folder}", capsys.readouterr().err)
    save_png(tmp_path / "mine" / "a.png", to_pixels(torch.zeros(3, 16, 16)))
    assert dry_run("paper-512-dfm", autoencoder, "--data", str(tmp_path / "mine")) == 0
    assert dry_run("paper-512-dfm", autoencoder, "--dataset", "webdataset", "--data", str(tmp_path / "mine")) == 1
    assert "tar" in capsys.readouterr().err
    assert dry_run("paper-512-dfm", autoencoder, "--dataset", "shapes") == 2
    assert "Drop them with --set dataset.options={}" in capsys.readouterr().err


def test_rows_are_presets_with_their_summaries() -> None:
    registry = default_registry()
    assert all(registry.preset(name).parent == FOLDER for name in ROWS)
    assert len(ROWS) == 39


# What the rows set, and the paper's FID and FDD of them, as tables 1 and 2 have them.
SAMPLER, SCHEDULE = "timestep_sampler.options", "stage_schedule.options"
SET: dict[str, tuple[dict[str, object], str]] = {
    "1a-070": ({f"{SAMPLER}.stage_probs": 0.7}, "36.02 676.0"),
    "1a-080": ({f"{SAMPLER}.stage_probs": 0.8}, "32.09 622.0"),
    "1a-090": ({f"{SAMPLER}.stage_probs": 0.9, f"{SAMPLER}.earlier_location": 1.5}, "29.56 571.0"),
    "1a-095": ({f"{SAMPLER}.stage_probs": 0.95}, "27.5 540.0"),
    "1b-00": ({f"{SAMPLER}.earlier_location": 0.0}, "29.83 567.0"),
    "1b-05": ({f"{SAMPLER}.earlier_location": 0.5}, "28.89 569.0"),
    "1b-10": ({f"{SAMPLER}.earlier_location": 1.0}, "29.14 567.0"),
    "1b-20": ({f"{SAMPLER}.earlier_location": 2.0}, "29.96 589.0"),
    "1b-tied": ({"timestep_sampler.name": "tied", "stage_schedule.name": "simultaneous"}, "55.49 885.0"),
    "1c-unmasked": ({f"{SAMPLER}.later_stages": "shown", f"{SCHEDULE}.later_stages": "shown"}, "29.9 584.0"),
    "1c-raw": ({"flow.standardize": False}, "27.13 505.0"),
    "1d-mlp": ({"specialisation.groups": ["mlp"]}, ""),
    "1d-attention": ({"specialisation.groups": ["attention"]}, ""),
    "1d-modulation": ({"specialisation.groups": ["modulation"]}, ""),
    "1d-full": ({"specialisation.groups": ["all"]}, ""),
    "512-dfm": ({"backbone.options.size": "XL", "decomposition.name": "laplacian"}, ""),
    "512-dfm-dwt": ({"decomposition.name": "dwt"}, ""),
    "512-dfm-dct": ({"decomposition.name": "dct"}, ""),
    "512-flow-matching": ({"decomposition.name": "identity"}, ""),
    "512-pyramidal-flow": ({"path.name": "pyramidal"}, ""),
    "kinetics-pyramidal-flow": ({"flow.standardize": True}, "10.51 353.8"),
}


@pytest.mark.parametrize("row", SET)
def test_a_row_sets_what_the_table_says(row: str) -> None:
    values, numbers = SET[row]
    place = "autoencoder.options.path=nowhere"
    config = resolve_config(ConfigRequest(presets=(f"paper-{row}",), settings=(place,))).config
    found = flatten(config.model_dump(mode="json"))
    assert {key: found.get(key) for key in values} == values
    lines = (FOLDER / f"paper-{row}.yaml").read_text().splitlines()
    assert all(number in lines[1] for number in numbers.split())
