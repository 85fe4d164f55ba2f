"""Configurations: sizes, layers and their origins, errors, files, resuming. The components here are invented."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from dfm_core.config.resolve import ConfigRequest, Flag, ResolvedConfig, read_config, resolve_config, to_yaml
from dfm_core.config.resume import changed_keys, check_resume
from dfm_core.config.sizes import medium_of, parse_stages, with_frames, write_stages
from dfm_core.config.yaml_text import parse_yaml, write_yaml
from dfm_core.errors import ConfigError, UnknownComponentError
from dfm_core.plugins import ComponentSpec, Options, PresetSpec
from dfm_core.plugins.discovery import BUILTIN, Claim, PluginInfo, PluginRecord, PluginState
from dfm_core.plugins.kinds import RUN_KINDS
from dfm_core.plugins.registry import Registry


class BlurOptions(Options):
    width: float = Field(1.5, gt=0, description="Width.")
    shape: str = Field("box", description="Shape.")


class BandOptions(Options):
    bands: tuple[int, ...] = Field((1, 2), description="Bands.")


class PathOptions(Options):
    places = frozenset({"path"})

    path: str = Field("here", description="Path.")


SPECS: dict[str, dict[str, type[Options]]] = {
    "dataset": {"dots": Options, "files": PathOptions},
    "autoencoder": {"none": Options},
    "decomposition": {"blur": BlurOptions, "band": BandOptions},
    "path": {"road": Options},
    "stage_schedule": {"line": Options},
    "timestep_sampler": {"dice": Options},
    "backbone": {"mlp": BandOptions, "cnn": BlurOptions},
}
PRESETS = {
    "defaults": """
stages: [8, 16]
dataset: dots
autoencoder: none
decomposition: blur
path: road
stage_schedule: line
timestep_sampler: dice
backbone: mlp
training:
""",
    "defaults-accelerator": "backbone: {name: mlp, options: {bands: [7]}}",
    "defaults-data": "dataset: files",
    "thin": "decomposition: {options: {width: 0.5}}\ntraining: {learning_rate: 1e-3}",
}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    for name, text in PRESETS.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    components = {
        kind: {name: ComponentSpec(name, f"{name}.", f"{kind}:{name}", options) for name, options in specs.items()}
        for kind, specs in SPECS.items()
    }
    presets = {name: PresetSpec(name, name, tmp_path / f"{name}.yaml") for name in PRESETS}
    info = PluginInfo(BUILTIN, "test", "1", "test")
    record = PluginRecord(info, PluginState.LOADED, components=components, presets=presets)
    return Registry([Claim(record, EntryPoint(BUILTIN, "test", "dfm_core"))])


def file_with(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return path


def resolved(registry: Registry, *settings: str, **request: Any) -> ResolvedConfig:
    return resolve_config(ConfigRequest(settings=settings, **request), registry)


def rejected(registry: Registry, *settings: str, **request: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        resolved(registry, *settings, **request)
    return str(caught.value)


@pytest.mark.parametrize(
    ("value", "stages"),
    [
        ("256,1024", ((256, 256), (1024, 1024))),
        (" 256, 1024 ", ((256, 256), (1024, 1024))),
        ([256, 1024], ((256, 256), (1024, 1024))),
        (["16x24", [32, 48]], ((16, 24), (32, 48))),
        ("8x16x16,8x32x32", ((8, 16, 16), (8, 32, 32))),
        (64, ((64, 64),)),
        ("64", ((64, 64),)),
        ([[8, 8]], ((8, 8),)),
    ],
)
def test_stage_sizes(value: object, stages: tuple[tuple[int, ...], ...]) -> None:
    assert parse_stages(value) == stages
    assert parse_stages(write_stages(stages)) == stages


def test_frames_turn_sizes_of_images_into_those_of_clips(registry: Registry) -> None:
    clips = ((6, 8, 8), (6, 16, 16))
    made = resolved(registry, "frames=6")
    assert (made.config.stages, made.config.frames) == (clips, 6)
    assert resolved(registry, "stages=6x8x8,6x16x16").config.stages == clips
    assert resolved(registry, "stages=3x8x8,6x16x16", "frames=6").config.stages == ((3, 8, 8), (6, 16, 16))
    assert resolved(registry, "frames=null").config.stages == ((8, 8), (16, 16))
    assert with_frames(((4, 6),), 1) == ((1, 4, 6),)


def test_frames_survive_the_file_of_a_run(registry: Registry, tmp_path: Path) -> None:
    config = resolved(registry, "frames=6").config
    assert read_config(file_with(tmp_path, to_yaml(config)), registry).config == config


def test_frames_that_contradict_the_stages(registry: Registry) -> None:
    message = rejected(registry, "frames=5", "stages=6x8x8,6x16x16")
    assert message == (
        "stages: frames is 5, and the stages 6x8x8,6x16x16 end with 6 frames; give one of the two, or both alike "
        "(from --set)"
    )
    assert "frames: expected greater than or equal to 1, got 0" in rejected(registry, "frames=0")


def test_what_stages_hold() -> None:
    assert (medium_of(((8, 8),)), medium_of(((1, 8, 8),))) == ("image", "video")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("64,32", "expected sizes that grow from coarse to fine, got 64 before 32; in order: 32,64"),
        ("32,32", "got 32 before 32"),
        ("32x64,64x32", "got 32x64 before 64x32"),
        ("32,8x32x32", "equally many dimensions"),
        ("", "got ''"),
        ([], "got none"),
        ("a", "got 'a'"),
        ("-4", "got '-4'"),
        ("0,8", "got '0'"),
        ([8.5], "got 8.5"),
        ([True], "got True"),
        (None, "got None"),
        ("1x2x3x4", "got '1x2x3x4'"),
    ],
)
def test_impossible_stage_sizes(value: object, message: str) -> None:
    with pytest.raises(ValueError, match="expected sizes") as caught:
        parse_stages(value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("12:30", "12:30"), ("2026-01-01", "2026-01-01"), ("no", "no"), ("true", True), ("007", "007")],
)
def test_yaml_reads_what_people_mean(text: str, value: object) -> None:
    assert parse_yaml(text, "here") == value
    assert parse_yaml(write_yaml({"a": [value, text]}), "here") == {"a": [value, text]}


def test_yaml_errors_name_the_place() -> None:
    with pytest.raises(ConfigError, match="here, line 2, column 1: expected YAML: key 'a' stands twice"):
        parse_yaml("a: 1\na: 2", "here")


def test_defaults_are_complete(registry: Registry) -> None:
    config, origins = (result := resolved(registry)).config, result.origins
    assert config.stages == ((8, 8), (16, 16))
    assert {kind: config.component(kind).name for kind in RUN_KINDS}["decomposition"] == "blur"
    assert config.component("decomposition").options == {"width": 1.5, "shape": "box"}
    assert config.component("backbone").options == {"bands": [1, 2]}
    assert origins["stages"] == "defaults preset"
    assert origins["decomposition.name"] == "defaults preset"
    assert origins["decomposition.options.width"] == "default of the component's option"
    assert origins["training.max_steps"] == "default"


def test_each_layer_covers_the_ones_below(registry: Registry, tmp_path: Path) -> None:
    path = file_with(tmp_path, "training: {learning_rate: 1e-2, max_steps: 3, batch_size: 5, warmup_steps: 9}")
    result = resolved(
        registry,
        "training.max_steps=4",
        "training.batch_size=6",
        presets=("thin",),
        files=(path,),
        flags=(Flag("--batch-size", "training.batch_size", 7),),
        values={"training": {"warmup_steps": 8}},
    )
    training = result.config.training
    assert (training.learning_rate, training.max_steps, training.batch_size, training.warmup_steps) == (1e-2, 4, 7, 8)
    assert {key: result.origins[key] for key in result.origins if result.origins[key] not in ("default",)} == {
        **dict.fromkeys(("stages", *(f"{kind}.name" for kind in RUN_KINDS)), "defaults preset"),
        "decomposition.options.width": "preset thin",
        "decomposition.options.shape": "default of the component's option",
        "backbone.options.bands": "default of the component's option",
        "training.learning_rate": f"file {path}",
        "training.max_steps": "--set",
        "training.batch_size": "--batch-size flag",
        "training.warmup_steps": "argument",
    }


@pytest.mark.parametrize(
    "setting", ["decomposition=band", "decomposition.name=band", "decomposition={name: band}", "decomposition: band"]
)
def test_a_component_is_named_in_many_ways(registry: Registry, tmp_path: Path, setting: str) -> None:
    as_file = ": " in setting and "=" not in setting
    layer: dict[str, Any] = {"files": (file_with(tmp_path, setting),)} if as_file else {}
    config = resolved(registry, *([] if as_file else [setting]), **layer).config
    assert config.component("decomposition").name == "band"
    assert config.component("decomposition").options == {"bands": [1, 2]}


def test_flag_and_setting_of_one_component_belong_together(registry: Registry) -> None:
    flag = (Flag("--decomposition", "decomposition.name", "band"),)
    config = resolved(registry, "decomposition.options.bands=[3]", flags=flag).config
    assert config.component("decomposition").options == {"bands": [3]}


def test_options_of_a_replaced_component_are_an_error(registry: Registry) -> None:
    flag = (Flag("--decomposition", "decomposition.name", "band"),)
    message = rejected(registry, presets=("thin",), flags=flag)
    assert "'band' (from --decomposition flag) takes the place of 'blur' (from defaults preset)" in message
    assert "decomposition.options.width (from preset thin)" in message
    assert "--set decomposition.options={}" in message


def test_an_option_that_is_said_anew_is_no_remainder(registry: Registry, tmp_path: Path) -> None:
    flag = (Flag("--decomposition", "decomposition.name", "band"),)
    path = file_with(tmp_path, "decomposition: {options: {width: 2.0}}")
    message = rejected(registry, "decomposition.options.width=1.0", files=(path,), flags=flag)
    assert "options of the old one remain" not in message
    assert "decomposition.options.width: unknown key" in message


def test_options_are_dropped_by_an_empty_mapping(registry: Registry, tmp_path: Path) -> None:
    flag = (Flag("--decomposition", "decomposition.name", "band"),)
    dropped = resolved(registry, "decomposition.options={}", presets=("thin",), flags=flag).config
    assert dropped.component("decomposition").options == {"bands": [1, 2]}
    path = file_with(tmp_path, "decomposition: {name: band, options: {}}")
    assert resolved(registry, presets=("thin",), files=(path,)).config == dropped
    again = resolved(registry, "decomposition.options={}", presets=("thin",)).config
    assert again.component("decomposition").options == {"width": 1.5, "shape": "box"}
    both = ("decomposition.options={}", "decomposition.options.bands=[3]")
    assert resolved(registry, *both, presets=("thin",), flags=flag).config.component("decomposition").options == {
        "bands": [3]
    }


def test_a_component_written_whole_stands_alone(registry: Registry, tmp_path: Path) -> None:
    path = file_with(tmp_path, "decomposition: {name: band, options: {bands: [4]}}")
    config = resolved(registry, presets=("thin",), files=(path,)).config
    assert config.component("decomposition").options == {"bands": [4]}


def test_options_of_the_same_component_add_up(registry: Registry, tmp_path: Path) -> None:
    path = file_with(tmp_path, "decomposition: {name: blur, options: {shape: round}}")
    config = resolved(registry, presets=("thin",), files=(path,)).config
    assert config.component("decomposition").options == {"width": 0.5, "shape": "round"}


def test_options_of_defaults_go_without_a_word(registry: Registry) -> None:
    accelerated = resolved(registry, accelerator=True)
    assert accelerated.config.component("backbone").options == {"bands": [7]}
    assert accelerated.origins["backbone.options.bands"] == "defaults-accelerator preset"
    other = resolved(registry, "backbone=cnn", accelerator=True).config
    assert other.component("backbone").options == {"width": 1.5, "shape": "box"}


def test_a_path_to_data_chooses_the_data_set(registry: Registry) -> None:
    flag = (Flag("--data", "dataset.options.path", "/photos"),)
    config = resolved(registry, data=True, flags=flag).config
    assert (config.component("dataset").name, config.component("dataset").options) == ("files", {"path": "/photos"})
    message = rejected(registry, "dataset=dots", data=True, flags=flag)
    assert message == "dataset.options.path: unknown key. Known: none. (from --data flag)"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "training.max_step=5",
            "training.max_step: unknown key. Did you mean 'max_steps', 'max_minutes', 'warmup_steps'? (from --set)",
        ),
        ("max_steps=5", "max_steps: unknown key. Did you mean 'training.max_steps'? (from --set)"),
        ("decomposition.width=5", "unknown key. Did you mean 'decomposition.options.width'? (from --set)"),
        (
            "decomposition.options.widht=5",
            "decomposition.options.widht: unknown key. Did you mean 'width'? (from --set)",
        ),
        ("traning.max_steps=5", "traning: unknown key. Did you mean 'training', 'sampling'? (from --set)"),
        ("training.max_steps=many", "training.max_steps: expected a valid integer, unable to parse"),
        ("training.max_steps=0", "training.max_steps: expected greater than or equal to 1, got 0 (from --set)"),
        ("training=5", "training: expected keys and values, got 5 (from --set)"),
        ("seed.x=5", "seed: expected a valid integer, got {'x': 5} (from --set)"),
        ("decomposition.options.width=-1", "decomposition.options.width: expected greater than 0, got -1 (from --set)"),
        ("backbone.options.bands=[a]", "backbone.options.bands.0: expected a valid integer, unable to parse"),
        ("training.betas=[0.9]", "training.betas.1: expected a value, got none (from --set)"),
        ("stages=16,8", "stages: expected sizes that grow from coarse to fine, got 16 before 8; in order: 8,16"),
        ("device=gpu", "device: expected auto, cpu, cuda, cuda:N or mps, got 'gpu' (from --set)"),
        ("training.max_steps", "--set 'training.max_steps': expected KEY=VALUE"),
        ("training..max_steps=4", "expected KEY=VALUE"),
        ("stages=[1", "--set 'stages=[1', line 1"),
    ],
)
def test_mistakes_are_named_with_path_and_origin(registry: Registry, setting: str, message: str) -> None:
    assert message in rejected(registry, setting)


def test_all_mistakes_are_told_at_once(registry: Registry) -> None:
    lines = rejected(registry, "training.max_steps=0", "seed=-1").splitlines()
    assert [line.split(":")[0] for line in lines] == ["training.max_steps", "seed"]


def test_unknown_components_tell_their_origin(registry: Registry) -> None:
    with pytest.raises(
        UnknownComponentError, match=r"unknown decomposition 'blurr'. Did you mean 'blur'.*\(from --set\)"
    ):
        resolved(registry, "decomposition=blurr")
    with pytest.raises(ConfigError, match="unknown preset 'thick'. Did you mean 'thin'"):
        resolved(registry, presets=("thick",))


@pytest.mark.parametrize(
    ("text", "message"),
    [("- 1", "expected keys and values, got list"), ("a: [", "expected YAML"), ("\x00", "expected YAML")],
)
def test_unreadable_files(registry: Registry, tmp_path: Path, text: str, message: str) -> None:
    assert message in rejected(registry, files=(file_with(tmp_path, text),))


def test_missing_files(registry: Registry, tmp_path: Path) -> None:
    assert "none.yaml: cannot be read: No such file" in rejected(registry, files=(tmp_path / "none.yaml",))
    assert "cannot be read" in rejected(registry, files=(tmp_path,))


def test_a_heading_with_nothing_under_it_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    path = file_with(tmp_path, "training:\nflow: {}\ndecomposition: {options: }\n")
    assert resolved(registry, files=(path,), presets=("thin",)).config == resolved(registry, presets=("thin",)).config


def test_what_is_written_is_read_back(registry: Registry, tmp_path: Path) -> None:
    settings = (
        "decomposition=band",
        "training.learning_rate=1e-4",
        "training.clip_norm=null",
        "name='1e5'",
        "stages=8x4,16x8",
    )
    config = resolved(registry, *settings).config
    path = file_with(tmp_path, to_yaml(config))
    assert read_config(path, registry).config == config
    assert resolved(registry, files=(path,)).config == config
    assert resolved(registry, base=path).origins["training.max_steps"] == f"file {path}"
    assert "stages: [[8, 4], [16, 8]]" in path.read_text()


def test_a_run_config_keeps_its_layers_below_new_ones(registry: Registry, tmp_path: Path) -> None:
    path = file_with(tmp_path, to_yaml(resolved(registry, "training.max_steps=5", presets=("thin",)).config))
    config = resolved(registry, "training.max_steps=9", base=path).config
    assert (config.training.max_steps, config.training.learning_rate) == (9, 1e-3)
    assert "takes the place of" in rejected(registry, "decomposition=band", base=path)


def test_changed_keys(registry: Registry) -> None:
    old, new = resolved(registry).config, resolved(registry, "seed=3", "decomposition=band").config
    assert changed_keys(old, old) == {}
    assert changed_keys(old, new) == {
        "seed": (0, 3),
        "decomposition.name": ("blur", "band"),
        "decomposition.options.width": (1.5, None),
        "decomposition.options.shape": ("box", None),
        "decomposition.options.bands": (None, [1, 2]),
    }


@pytest.mark.parametrize(
    "setting", ["training.max_steps=5", "device=cpu", "workers=2", "logging.log_every=3", "output=there", "name=other"]
)
def test_what_may_change_on_resume(registry: Registry, setting: str) -> None:
    assert check_resume(resolved(registry).config, resolved(registry, setting).config, registry) == ()


def test_places_may_change_on_resume(registry: Registry) -> None:
    old = resolved(registry, "dataset=files").config
    assert check_resume(old, resolved(registry, "dataset=files", "dataset.options.path=moved").config, registry) == ()
    with pytest.raises(ConfigError, match=r"decomposition.options.shape: [^;]*only dataset\.options\.path, device"):
        check_resume(old, resolved(registry, "dataset=files", "decomposition.options.shape=tent").config, registry)


def test_what_may_not_change_on_resume(registry: Registry) -> None:
    new = resolved(registry, "training.learning_rate=1e-3", "stages=8,32", "device=cpu").config
    with pytest.raises(ConfigError) as caught:
        check_resume(resolved(registry).config, new, registry)
    message = str(caught.value)
    assert "training.learning_rate: the run has 0.0001, got 0.001" in message
    assert "stages: the run has [[8, 8], [16, 16]], got [[8, 8], [32, 32]]" in message
    assert "device: the run" not in message


def test_a_changed_cosine_is_told(registry: Registry) -> None:
    cosine = "training.rate_schedule=cosine"
    old, new = resolved(registry, cosine).config, resolved(registry, cosine, "training.max_steps=5").config
    (notice,) = check_resume(old, new, registry)
    assert "ends at step 5 instead of 10000" in notice
    assert check_resume(old, old, registry) == ()


def test_components_given_as_objects_are_left_alone(registry: Registry) -> None:
    config = resolved(registry, "decomposition='object:here.Mine'").config
    assert config.component("decomposition").name == "object:here.Mine"
    with pytest.raises(UnknownComponentError, match="was given as a Python object"):
        registry.get("decomposition", "object:here.Mine")


def test_the_request_is_not_changed(registry: Registry) -> None:
    values = {"decomposition": {"name": "blur", "options": {"width": 2.0}}, "stages": [4, 8]}
    resolved(registry, values=values)
    assert values == {"decomposition": {"name": "blur", "options": {"width": 2.0}}, "stages": [4, 8]}
