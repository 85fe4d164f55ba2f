"""`dfm train`: what a run leaves, the plan, going on, beginning from other weights, broken images; what is said."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from command_tools import TINY, Dfm, Rejected, write_picture
from safetensors.torch import load_file

from dfm_core.training.checkpoint import list_checkpoints


def tensors(run: Path, name: str = "weights") -> dict[str, torch.Tensor]:
    return load_file(list_checkpoints(run)[-1] / f"{name}.safetensors")


def same(first: Path, second: Path) -> bool:
    pairs = [(tensors(first, name), tensors(second, name)) for name in ("weights", "ema", "optimizer")]
    return all(a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a) for a, b in pairs)


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def checkpoints(run: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in list_checkpoints(run)]


def test_a_run_says_what_it_does_and_how_to_go_on(dfm: Dfm, tmp_path: Path) -> None:
    path = tmp_path / "run"
    result = dfm("train", *TINY, "--max-steps", 4, "--output", path)
    assert result.err.splitlines() == [
        "preparing data and model …",
        f"run {path}",
        "shapes, 8 classes; to step 4, 4 images a step",
        "laplacian, stages 8×8 → 16×16",
        "dit, 43.1 k parameters, tokens 8x8 = 64, patches 1, 2; on cpu",
    ]
    small, *steps, end, hint = result.lines
    assert small.startswith("stage 2 has a root mean square of 0.1")
    assert [line.split()[:2] for line in steps] == [["step", f"{step}/4"] for step in (1, 2, 4)]
    assert re.fullmatch(r"step 4/4  loss [\d.]+  (stage_\d [\d.]+  )+[\d.]+ images/s  ETA 0:00:00", steps[-1])
    assert end == f"trained to step 4; the run lies in {path}"
    assert hint == f"sample with:  dfm sample {path} --num 16 --previews"


@pytest.mark.parametrize(("steps", "told"), [(1, ["1/1"]), (3, ["1/3", "2/3", "3/3"])])
def test_no_step_is_told_of_twice(steps: int, told: list[str], dfm: Dfm, tmp_path: Path) -> None:
    result = dfm("train", *TINY, "--max-steps", steps, "--output", tmp_path / "run")
    assert [line.split()[1] for line in result.lines if line.startswith("step ")] == told
    assert metrics(tmp_path / "run")[-1]["step"] == steps


def test_what_lies_in_a_run(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {
        *("config.yaml", "metrics.jsonl", "status.json", "checkpoints", "samples"),
    }
    assert checkpoints(trained) == [4, 6]
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["stages"] == [[8, 8], [16, 16]]
    assert config["backbone"]["options"]["depth"] == 1
    lines = metrics(trained)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert set(lines[0]) == {
        *("step", "loss", "parts", "loss_by_t", "learning_rate", "grad_norm", "grad_norms", "images_per_second"),
        *("utilisation", "data_wait", "peak_memory", "seconds"),
    }
    assert all(line["loss"] > 0 and line["grad_norm"] > 0 for line in lines)
    assert lines[1]["utilisation"] > 0
    assert all(set(line["grad_norms"]) == {"stage_1", "stage_2"} for line in lines)
    assert lines[0]["learning_rate"] == pytest.approx(1e-4 * 2 / 100)
    assert {name for line in lines for name in line["parts"]} <= {"stage_1", "stage_2"}


def test_samples_validation_and_tensorboard(dfm: Dfm, tmp_path: Path) -> None:
    sets = ["logging.sample_every=2", "logging.validation_every=2", "logging.validation_images=4", "sampling.num=4"]
    flags = [part for setting in [*sets, "logging.tensorboard=true"] for part in ("--set", setting)]
    dfm("train", *TINY, *flags, "--max-steps", 2, "--output", tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "samples").iterdir()] == ["step_00000002.png"]
    assert metrics(tmp_path / "run")[-1]["validation"].keys() == {"loss", "stage_1", "stage_2"}
    assert any((tmp_path / "run" / "tensorboard").iterdir())


def test_an_output_is_made_up_where_none_is_given(dfm: Dfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dfm("train", *TINY, "--max-steps", 1)
    (run,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"\d{8}-\d{6}-laplacian-8-16", run.name)


def test_json_is_all_of_stdout(dfm: Dfm, tmp_path: Path) -> None:
    result = dfm("train", *TINY, "--max-steps", 2, "--output", tmp_path / "run", "--json")
    values = result.json
    assert values.pop("loss") > 0
    checkpoint = str(tmp_path / "run" / "checkpoints" / "step_00000002")
    expected = {"run": str(tmp_path / "run"), "step": 2, "interrupted": False, "checkpoint": checkpoint}
    assert values == {**expected, "unreadable": 0, "too_short": 0}
    assert "step 2/2" in result.err


def test_quiet_leaves_the_result(dfm: Dfm, tmp_path: Path) -> None:
    result = dfm("train", *TINY, "--max-steps", 1, "--output", tmp_path / "run", "--quiet")
    assert (result.out, result.err) == (f"trained to step 1; the run lies in {tmp_path / 'run'}\n", "")


def test_the_plan(dfm: Dfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    size = ["--stages", "16,32", "--set", "backbone.options.depth=3", "--set", "backbone.options.width=64"]
    flags = [*TINY, *size, "--max-steps", 10, "--output", "run", "--dry-run"]
    plan = dfm("train", *flags, "--json").json
    assert plan["stages"] == [{"resolution": "16", "shape": "3x16x16"}, {"resolution": "32", "shape": "3x32x32"}]
    assert plan["backbone"] == {"tokens": "16x16 = 256", "patches": "1, 2"}
    dense = [(3, 64), (12, 64), *2 * [(256, 64), (64, 64), (64, 128)], (64, 3), (64, 12)]  # ways in, clocks, heads
    blocks = 3 * [(64, 6 * 64), (64, 3 * 64), (64, 64), (64, 4 * 64), (4 * 64, 64)]
    parameters = sum((a + 1) * b for a, b in dense + blocks) + (9 + 2) * 64  # and tables of labels and stages
    assert plan["parameters"] == parameters
    on_tokens = sum(a * b for a, b in [(3, 64), (12, 64), (64, 3), (64, 12)]) + 3 * 12 * 64**2
    attention = 3 * 2 * 256 * 64  # per token and block: scores and their use
    assert plan["flops"] == pytest.approx(6 * (on_tokens + attention) * 256 * 4, rel=0.05)
    assert plan["state_bytes"] == 20 * parameters
    assert plan["memory_bytes"] == sum(plan[f"{part}_bytes"] for part in ("state", "activation", "stage"))
    assert plan["generation_steps"] == 40
    text = dfm("train", *flags).out
    assert f"({parameters})" in text
    assert "16x16 = 256" in text
    assert not any(tmp_path.iterdir())


def test_the_plan_sees_what_does_not_fit_together(dfm: Dfm, tmp_path: Path) -> None:
    flags = ["--schedule", "simultaneous", "--timestep-sampler", "progressive"]
    result = dfm("train", *TINY, *flags, "--dry-run", code=None)
    started = dfm("train", *TINY, *flags, "--max-steps", 1, "--output", tmp_path / "run", code=None)
    assert result.code == started.code
    assert result.err.replace("preparing data and model …\n", "") in started.err


def test_the_plan_of_a_run_that_goes_on(dfm: Dfm, trained: Path) -> None:
    plan = dfm("train", "--resume", trained, "--max-steps", 8, "--dry-run", "--json").json
    assert (plan["parameters"], plan["max_steps"]) == (43087, 8)
    assert checkpoints(trained) == [4, 6]


def test_the_plan_of_several_processes_has_the_memory_of_each(dfm: Dfm, rejected: Rejected) -> None:
    flags = ["train", *TINY, "--set", "training.accumulation=2", "--dry-run"]
    alone, ddp = (dfm(*flags, "--nproc", number, "--json").json for number in (1, 2))
    fsdp = dfm(*flags, "--nproc", 2, "--parallel", "fsdp", "--json").json
    assert [plan["processes"] for plan in (alone, ddp, fsdp)] == [1, 2, 2]
    assert ddp["state_bytes"] == alone["state_bytes"] == 2 * fsdp["state_bytes"]
    for name in ("activation_bytes", "stage_bytes"):
        assert alone[name] == 2 * ddp[name] == 2 * fsdp[name]
    assert ddp["flops"] == alone["flops"]
    assert "2 (fsdp); memory is of each" in dfm(*flags, "--nproc", 2, "--parallel", "fsdp").out
    assert rejected(*flags, "--nproc", 3).startswith("a batch of 4 cannot be split evenly over 3 processes: use a")


def test_a_resumed_run_equals_one_that_never_stopped(dfm: Dfm, trained: Path, run: Path, tmp_path: Path) -> None:
    dfm("train", *TINY, "--max-steps", 9, "--output", tmp_path / "whole")
    result = dfm("train", "--resume", run, "--max-steps", 9)
    assert [line.split()[1] for line in result.lines[:2]] == ["7/9", "8/9"]
    assert f"trained to step 9; the run lies in {run}" in result.out
    assert same(run, tmp_path / "whole")
    timed = {"seconds", "images_per_second", "utilisation", "data_wait", "peak_memory"}
    compared = [
        [{k: v for k, v in line.items() if k not in timed} for line in metrics(p)] for p in (run, tmp_path / "whole")
    ]
    assert compared[0] == compared[1]


def test_resuming_a_finished_run_says_so(dfm: Dfm, run: Path) -> None:
    result = dfm("train", "--resume", run)
    assert f"all 6 steps of this run were done before; it lies in {run}" in result.out
    assert f"train longer with:  dfm train --resume {run} --max-steps 12" in result.out
    assert checkpoints(run) == [4, 6]


def test_what_may_change_on_resume(dfm: Dfm, run: Path) -> None:
    changes = ["--device", "cpu", "--set", "logging.log_every=1", "--set", "workers=0", "--set", "name=other"]
    dfm("train", "--resume", run, "--max-steps", 8, *changes)
    assert [line["step"] for line in metrics(run)] == [2, 4, 6, 7, 8]
    assert yaml.safe_load((run / "config.yaml").read_text())["training"]["max_steps"] == 8


def test_a_changed_horizon_of_the_cosine_is_said(dfm: Dfm, tmp_path: Path) -> None:
    dfm("train", *TINY, "--set", "training.rate_schedule=cosine", "--max-steps", 2, "--output", tmp_path / "run")
    err = dfm("train", "--resume", tmp_path / "run", "--max-steps", 3, "--quiet").err
    assert "the cosine of the learning rate now ends at step 3, no longer at 2" in err
    assert len(err.splitlines()) == 1


def test_a_run_goes_on_in_another_folder(dfm: Dfm, trained: Path, run: Path, tmp_path: Path) -> None:
    dfm("train", "--resume", run, "--max-steps", 8, "--output", tmp_path / "next")
    assert (checkpoints(run), checkpoints(tmp_path / "next")) == ([4, 6], [6, 8])
    assert (run / "config.yaml").read_text() == (trained / "config.yaml").read_text()
    assert [line["step"] for line in metrics(tmp_path / "next")] == [2, 4, 6, 8]
    dfm("train", "--resume", run, "--max-steps", 8)
    assert same(run, tmp_path / "next")
    shutil.rmtree(run)
    assert "trained to step 9" in dfm("train", "--resume", tmp_path / "next", "--max-steps", 9).out


def test_a_checkpoint_that_was_cut_short_is_passed_over(dfm: Dfm, trained: Path, run: Path) -> None:
    weights = list_checkpoints(run)[-1] / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    result = dfm("train", "--resume", run)
    assert "step_00000006 is damaged: weights.safetensors is not as it was written; using the older step_00000004" in (
        result.err
    )
    assert [line.split()[1] for line in result.lines[:2]] == ["5/6", "6/6"]
    assert same(run, trained)


def test_a_moved_run_goes_on_where_it_is(dfm: Dfm, run: Path, tmp_path: Path) -> None:
    run.rename(tmp_path / "moved")
    dfm("train", "--resume", tmp_path / "moved", "--max-steps", 7)
    assert checkpoints(tmp_path / "moved") == [6, 7]
    assert not run.exists()


@pytest.mark.parametrize("exported", [False, True])
def test_weights_of_another_run(exported: bool, dfm: Dfm, trained: Path, tmp_path: Path) -> None:
    source = tmp_path / "model" if exported else trained
    if exported:
        dfm("export", trained, source)
    flags = ["--max-steps", 1, "--set", "training.learning_rate=1e-30", "--output", tmp_path / "next"]
    result = dfm("train", *TINY, *flags, "--init-from", source)
    assert f"began with 32 of 32 tensors from {source}" in result.out
    before, after = tensors(trained, "ema"), tensors(tmp_path / "next")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_few_broken_images_are_skipped_counted_and_named(dfm: Dfm, photos: Path, tmp_path: Path) -> None:
    for name in ("05.png", "17.png"):
        (photos / name).write_bytes(b"no picture")
    flags = ["--data", photos, "--set", "flow.statistics_images=24", "--max-steps", 7, "--output", tmp_path / "run"]
    result = dfm("train", *TINY, *flags)
    named = [line for line in result.err.splitlines() if "skipped: cannot read image" in line]
    assert sorted(re.findall(r"(\d\d)\.png: ", " ".join(named))) == ["05", "17"]
    assert {"2 unreadable files skipped", f"their names: {tmp_path / 'run' / 'skipped.txt'}"} <= {*result.lines}
    names = (tmp_path / "run" / "skipped.txt").read_text().splitlines()
    assert [re.findall(r"skipped: cannot read image .*(\d\d)\.png: ", name) for name in names] == [["05"], ["17"]]
    resumed = dfm("train", "--resume", tmp_path / "run", "--max-steps", 13, "--json")
    assert resumed.json["unreadable"] == 2
    assert (tmp_path / "run" / "skipped.txt").read_text().splitlines() == names


def test_labels_are_the_sub_folders(dfm: Dfm, tmp_path: Path) -> None:
    for index in range(8):
        write_picture(tmp_path / "pets" / ("dog" if index % 2 else "cat") / f"{index}.png", index)
    dfm("train", *TINY, "--data", tmp_path / "pets", "--max-steps", 1, "--output", tmp_path / "run")
    result = dfm("sample", tmp_path / "run", "--label", "dog", "--num", 2, "--device", "cpu", "--json")
    assert result.json["labels"] == [1, 1]


def test_a_resumed_run_finds_its_data_from_anywhere(
    dfm: Dfm, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dfm("train", *TINY, "--data", "photos", "--max-steps", 1, "--output", "run")
    monkeypatch.chdir("/")
    dfm("train", "--resume", tmp_path / "run", "--max-steps", 2)
