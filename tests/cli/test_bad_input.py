"""What users and machines get wrong: exit code, a message that says what to do, no traceback, nothing lost."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_tools import TINY, Dfm, Rejected, write_picture

from dfm_core.config.resume import CHANGEABLE
from dfm_core.flow import stage_errors
from dfm_core.training.checkpoint import list_checkpoints
from dfm_core.training.tensor_file import write_tensors

CONFIGURATION = {
    "unknown decomposition": (
        ["--decomposition", "laplacain"],
        "unknown decomposition 'laplacain'. Did you mean 'laplacian'? `dfm plugins list` shows what there is",
    ),
    "unknown backbone": (["--backbone", "dti"], "unknown backbone 'dti'. Did you mean 'dit'?"),
    "unknown schedule": (
        ["--schedule", "progresive"],
        "unknown stage schedule 'progresive'. Did you mean 'progressive'",
    ),
    "unknown sampler": (["--timestep-sampler", "tide"], "unknown timestep sampler 'tide'. Did you mean 'tied'?"),
    "unknown dataset": (["--dataset", "shape"], "unknown dataset 'shape'. Did you mean 'shapes', 'moving_shapes'?"),
    "unknown plugin": (["--backbone", "acme/unet"], "acme"),
    "unknown preset": (["--preset", "quikstart"], "unknown preset 'quikstart'. Did you mean 'quickstart', 'video"),
    "stages that shrink": (["--stages", "16,8"], "expected sizes that grow from coarse to fine, got 16 before 8"),
    "equal stages": (["--stages", "16,16"], "expected sizes that grow from coarse to fine"),
    "stages that are no sizes": (["--stages", "8,x16"], "expected sizes from coarse to fine, like 32,64"),
    "a ratio that a wavelet lacks": (
        ["--decomposition", "dwt", "--stages", "12,16"],
        "each stage must be 2, 4, 8 … times the one before, the same along height and width, got 12, 16; "
        "the nearest that work: 8, 16",
    ),
    "sizes that blocks lack": (
        ["--decomposition", "dct", "--set", "decomposition.options.block=8", "--stages", "9,16"],
        "with one n along the axes that change, got 9, 16; these would work: 2, 4, 6, 8, 10, 12, 14, 16",
    ),
    "two stages for one": (["--decomposition", "identity"], "identity has one stage, got 8, 16: use the one stage 16"),
    "no common token grid": (
        ["--stages", "8x8,16x24"],
        "the nearest sizes that work: 8x12, 16x24",
    ),
    "stages without a common divisor": (["--stages", "10,16"], "the nearest sizes that work: 8, 16"),
    "a token grid that does not divide": (
        ["--set", "backbone.options.token_grid=5"],
        "token_grid=5 does not fit stages of tensor sizes 8, 16: use token_grid 1, 2, 4, 8",
    ),
    "steps": (["--set", "stage_schedule.options.steps=[30]"], "steps: expected 2 for 2 stages"),
    "thresholds": (["--set", "stage_schedule.options.thresholds=[0.7,0.8]"], "thresholds: expected 1 for 2 stages"),
    "a threshold of 0": (["--set", "stage_schedule.options.thresholds=[0.0]"], "expected greater than 0, got 0.0"),
    "a wavelet": (
        ["--decomposition", "dwt", "--set", "decomposition.options.wavelet=db99"],
        "no discrete wavelet 'db99' in PyWavelets. Did you mean 'db9'",
    ),
    "a misspelt key": (
        ["--set", "training.lerning_rate=1"],
        "training.lerning_rate: unknown key. Did you mean 'learning_rate', 'final_rate'? (from --set)",
    ),
    "a key in the wrong place": (["--set", "learning_rate=1"], "Did you mean 'training.learning_rate'?"),
    "an option of another component": (
        ["--set", "decomposition.options.wavelet=db2"],
        "unknown key. Known: filter, up, time_grid.",
    ),
    "a setting without a value": (
        ["--set", "training.max_steps"],
        "expected KEY=VALUE, such as training.max_steps=1000",
    ),
    "a value of the wrong type": (["--set", "training.clip_norm=high"], "training.clip_norm: expected"),
    "a number out of range": (
        ["--max-steps", "0"],
        "expected greater than or equal to 1, got 0 (from --max-steps flag)",
    ),
    "a solver": (
        ["--set", "sampling.solver=heunn"],
        "unknown solver 'heunn'; expected one of euler, heun, midpoint, ab2",
    ),
    "a device that is not there": (
        ["--device", "cuda"],
        "device 'cuda' is not on this machine; it has cpu (--device auto",
    ),
    "no device": (["--device", "gpu"], "expected auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
    "a file that is missing": (["--config", "none.yaml"], "file none.yaml: cannot be read: No such file or directory"),
    "both ways to begin": (
        ["--resume", "a", "--init-from", "b"],
        "--resume goes on with a run and --init-from begins a new",
    ),
}


@pytest.fixture(autouse=True)
def _machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("mistake", CONFIGURATION)
def test_configurations(mistake: str, rejected: Rejected, tmp_path: Path) -> None:
    flags, message = CONFIGURATION[mistake]
    assert message in rejected("train", *TINY, "--output", "run", "--max-steps", "1", *flags)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("traning: {max_steps: 3}", "traning: unknown key. Did you mean 'training', 'sampling'? (from file my.yaml)"),
        ("training:\n  max_steps: many", "training.max_steps: expected a valid integer"),
        ("training:\n  max_steps: 3\n batch_size: 5", "file my.yaml, line 3, column 2: expected YAML"),
        ("- 1", "file my.yaml: expected keys and values, got list"),
    ],
)
def test_config_files(text: str, message: str, rejected: Rejected, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(text)
    assert message in rejected("train", *TINY, "--config", "my.yaml", "--output", "run")


def test_flags_of_the_wrong_type(dfm: Dfm) -> None:
    for flags in (["--max-steps", "many"], ["--nothing"], ["--resume"]):
        result = dfm("train", *flags, code=2)
        assert "Error: " in result.err
        assert flags[0] in result.err
        assert "Traceback" not in result.err


def test_an_output_that_exists_is_left_alone(rejected: Rejected, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    message = rejected("train", *TINY, "--output", "run")
    assert message == "run exists; continue that run with `dfm train --resume run`, or choose another --output"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


DATA = {
    "missing": "no folder or file {here}/missing; expected a folder of images: one sub-folder a class, or all images "
    "side by side (no labels); give its path with --data",
    "empty": "no images in {here}/empty; expected a folder of images",
    "notes": "found 1 ending in .txt",
    "file.png": "{here}/file.png is a file; expected a folder of images",
    "mixed": "holds images both in sub-folders (cats) and beside them",
}


@pytest.mark.parametrize("name", DATA)
def test_data_folders(name: str, rejected: Rejected, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("")
    for picture in ("file.png", "mixed/a.png", "mixed/cats/b.png"):
        write_picture(tmp_path / picture, 0)
    for extra in ([], ["--dry-run"]):
        message = rejected("train", *TINY, "--data", name, "--output", "run", *extra, code=1)
        assert DATA[name].format(here=tmp_path) in message
    assert not (tmp_path / "run").exists()


EARLY = {
    "output": (["train", "--output", "there"], 2),
    "data": (["train", "--data", "absent"], 1),
    "data to encode": (["encode", "absent", "--output", "latents"], 1),
    "data to measure with": (["bench", "--data", "absent"], 1),
    "samples": (["sample", "run", "--output", "there"], 2),
}


@pytest.mark.parametrize("case", EARLY)
def test_what_needs_no_torch_to_be_refused(case: str, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    arguments, code = EARLY[case]
    script = f"""
import sys
from dfm_core.cli.app import main
code = main({arguments!r})
sys.exit(99 if "torch" in sys.modules else code)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("command", ["train", "bench"])
def test_a_missing_device_is_told_before_anything_is_prepared(
    command: str, dfm: Dfm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert dfm(command, "--device", "cuda", code=2).err.startswith("error: device 'cuda' is not on this machine")


def test_data_that_has_no_place_of_its_own_is_left_to_its_data_set(rejected: Rejected, tmp_path: Path) -> None:
    shards = str(tmp_path / "shards-{0000..0003}.tar")
    said = rejected("train", *TINY, "--dataset", "webdataset", "--data", shards, "--output", "run", code=1)
    assert "shards-0000.tar" in said


def test_more_than_a_tenth_of_the_images_broken(rejected: Rejected, photos: Path, tmp_path: Path) -> None:
    for index in range(6):
        (photos / f"{index:02d}.png").write_bytes(b"no picture")
    message = rejected("train", *TINY, "--data", photos, "--max-steps", 6, "--output", "run", code=1)
    assert "are unreadable, expected at most a tenth; repair or remove them: cannot read image" in message
    assert not (tmp_path / "run").exists() or (tmp_path / "run" / "config.yaml").is_file()


def test_guidance_without_labels_is_found_before_the_first_step(
    rejected: Rejected, photos: Path, tmp_path: Path
) -> None:
    message = rejected("train", *TINY, "--data", photos, "--set", "sampling.cfg=2", "--output", "run")
    assert message.startswith("sampling.cfg=2 asks for guidance, which needs labels, and the data has none: set")
    assert not (tmp_path / "run").exists()


RESUMED = {
    "batch size": (["--batch-size", "8"], "--batch-size (training.batch_size): the run has 4, got 8"),
    "component": (["--decomposition", "dwt"], "--decomposition: the run has 'laplacian', got 'dwt'; a run keeps its"),
    "option": (["--set", "backbone.options.qk_norm=true"], "backbone.options.qk_norm: the run has False, got True"),
    "seed": (["--seed", "1"], "seed: the run has 0, got 1"),
    "rate": (["--set", "training.learning_rate=1"], "training.learning_rate: the run has 0.0001, got 1"),
    "fewer steps": (
        ["--max-steps", "3"],
        "has 6 finished steps, expected a --max-steps (training.max_steps) of at least",
    ),
    "output": (["--output", "there"], "there exists"),
}


@pytest.mark.parametrize("change", RESUMED)
def test_changes_on_resume(change: str, rejected: Rejected, run: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    flags, message = RESUMED[change]
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    said = rejected("train", "--resume", run, "--decomposition", "laplacian", *flags)
    assert message in said
    if change in ("batch size", "option", "seed", "rate"):
        changeable = ", ".join(sorted(CHANGEABLE))
        assert f"may change only {changeable} and logging.*; start a new run" in said
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before


def test_resuming_what_is_no_run(rejected: Rejected, dfm: Dfm, run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("nothing", "empty"):
        message = rejected("train", "--resume", name, code=1)
        assert message.startswith(
            f"{name} is not the folder of a run: expected config.yaml and checkpoints/ in it; give"
        )
    for path in list_checkpoints(run):
        (path / "state.json").write_text("{")
    message = rejected("train", "--resume", run, code=1)
    assert f"{run} has no complete checkpoint: " in message
    advice = f"dfm train --config {run / 'config.yaml'} --output NEW"
    assert message.endswith(f"Put the files back from a copy, or train anew: {advice}")
    dfm(*advice.split()[1:], "--max-steps", 1)
    assert [path.name for path in list_checkpoints(Path("NEW"))] == ["step_00000001"]


def test_resuming_an_exported_model_says_what_to_do(
    rejected: Rejected, dfm: Dfm, trained: Path, tmp_path: Path
) -> None:
    dfm("export", trained, tmp_path / "model")
    assert rejected("train", "--resume", "model", code=1).endswith("dfm train --init-from model")
    dfm("train", *TINY, "--max-steps", 1, "--init-from", "model", "--output", "run")


def test_resuming_with_other_data(rejected: Rejected, dfm: Dfm, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_picture(tmp_path / "pets" / name / "a.png", 0)
    dfm("train", *TINY, "--data", "pets", "--max-steps", "1", "--output", "run")
    (tmp_path / "pets" / "dog").rename(tmp_path / "pets" / "wolf")
    message = rejected("train", "--resume", "run", "--max-steps", 2, code=1)
    assert "was trained on classes ('cat', 'dog'), the data now has ('cat', 'wolf'); restore the data" in message


def test_beginning_with_weights_of_another_network(rejected: Rejected, trained: Path, tmp_path: Path) -> None:
    flags = ["--set", "backbone.options.width=16", "--init-from", trained, "--output", "run"]
    assert "use the same backbone and options" in rejected("train", *TINY, *flags, code=1)
    assert "not the folder of a run" in rejected("train", *TINY, "--init-from", tmp_path, "--output", "run", code=1)
    assert not (tmp_path / "run").exists()


def test_a_learning_rate_that_explodes(rejected: Rejected, tmp_path: Path) -> None:
    sets = ["learning_rate=1e30", "clip_norm=null", "precision=float32", "warmup_steps=0"]
    flags = [part for setting in sets for part in ("--set", f"training.{setting}")]
    message = rejected("train", *TINY, *flags, "--max-steps", 20, "--output", "run", code=1)
    assert "the loss of stage_1 is nan at step 2" in message
    assert "there is no checkpoint yet. Try a lower learning rate, a longer warm-up, or precision=float32" in message


def test_a_loss_that_is_not_a_number_leaves_the_last_good_checkpoint(
    rejected: Rejected, dfm: Dfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def broken_from_the_sixth(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        errors = stage_errors(*arguments)
        return errors if len(calls) < 6 else errors * torch.tensor([torch.nan, 1.0])

    monkeypatch.setattr("dfm_core.objective.stage_errors", broken_from_the_sixth)
    flags = ["--set", "logging.checkpoint_every=2", "--max-steps", 20, "--output", "run"]
    message = rejected("train", *TINY, *flags, code=1)
    assert "the loss of stage_1 is nan at step 6" in message
    assert "the last good checkpoint is run/checkpoints/step_00000004" in message
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert "trained to step 8" in dfm("train", "--resume", "run", "--max-steps", 8).out


def no_space(*_arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_at_the_end(rejected: Rejected, dfm: Dfm, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr("dfm_core.training.checkpoint.write_tensors", no_space)
        message = rejected("train", "--resume", run, "--max-steps", 8, code=1)
    assert "could not write checkpoint" in message
    assert "No space left on device. Is the disk full?" in message
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_00000004", "step_00000006"]
    assert "trained to step 8" in dfm("train", "--resume", run, "--max-steps", 8).out


def test_a_full_disk_on_the_way_is_a_warning(dfm: Dfm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def full_at_first(*arguments: Any) -> dict[str, object]:
        calls.append(1)
        if len(calls) == 1:
            no_space()
        return write_tensors(*arguments)

    monkeypatch.setattr("dfm_core.training.checkpoint.write_tensors", full_at_first)
    result = dfm("train", *TINY, "--set", "logging.checkpoint_every=2", "--max-steps", 4, "--output", "run")
    assert "No space left on device" in result.err
    assert "training goes on" in result.err
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step_00000004"]


def test_a_full_disk_at_the_start(rejected: Rejected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfm_core.training.run_directory.replace_text", no_space)
    assert "No space left on device" in rejected("train", *TINY, "--output", "run", code=1)


def test_a_place_where_nothing_can_be_written(rejected: Rejected, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = rejected("train", *TINY, "--output", "file/run")
    assert message.startswith("cannot create the run folder file/run: ")
    assert message.endswith("choose another --output")


def test_debug_shows_where(dfm: Dfm, tmp_path: Path) -> None:
    for command in (["train", *TINY, "--data", "missing"], ["sample", "nothing"], ["decompose", "nothing.png"]):
        err = dfm(*command, "--debug", code=1).err
        assert "Traceback (most recent call last)" in err
        assert err.splitlines()[-1].startswith("error: ")
