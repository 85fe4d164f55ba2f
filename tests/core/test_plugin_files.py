"""Plugins in one file: read, loaded, refused, recorded in a configuration and asked for again."""

from __future__ import annotations

import hashlib
import logging
import sys
from pathlib import Path

import pytest
from fake_plugins import PREAMBLE, STEERABLE, FakeSite

from dfm_core import build, load, train
from dfm_core.config.plugin_files import namespace_of
from dfm_core.config.resolve import ConfigRequest, read_config, resolve_config, to_yaml
from dfm_core.config.resume import check_resume
from dfm_core.config.run_config import RunConfig
from dfm_core.errors import ConfigError, PluginError, UnknownComponentError
from dfm_core.plugins.discovery import PluginState
from dfm_core.plugins.plugin_file import PluginFile
from dfm_core.plugins.registry import Registry

AVERAGE = """
from torch.nn.functional import interpolate

from dfm_core.plugins import DecompositionSpec, Options, hookimpl
from dfm_core.residual_pyramid import ResidualPyramid

DFM_PLUGIN_API = 1


class AverageOptions(Options):
    gain: float = 1.0


class Average(ResidualPyramid):
    def down(self, x, size):
        return interpolate(x, size=size, mode="area")

    def up(self, x, size):
        return interpolate(x, size=size, mode="nearest")


@hookimpl
def dfm_decompositions():
    return [DecompositionSpec("average", "Means of blocks.", f"{__name__}:Average", AverageOptions)]
"""
DATA = """
import torch

from dfm_core.interfaces.dataset import Dataset
from dfm_core.plugins import DatasetSpec, hookimpl

DFM_PLUGIN_API = 1


class Grey(Dataset):
    channels = 3
    classes = ()

    def __len__(self):
        return 8 if self.facts.split == "train" else 0

    def load(self, index, epoch=0):
        return {"image": torch.full((3, *self.facts.size), index / 8)}


@hookimpl
def dfm_datasets():
    return [DatasetSpec("grey", "Plain greys.", f"{__name__}:Grey")]
"""
TINY = {
    "stages": "8,16",
    "device": "cpu",
    "batch_size": 2,
    "max_steps": 1,
    "quiet": True,
    "backbone": {"name": "dit", "options": {"depth": 1, "width": 32, "heads": 2}},
    "flow": {"statistics_images": 4},
    "logging": {"tensorboard": False, "validation_every": 0},
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "mine.py", AVERAGE)


def write(path: Path, source: str) -> Path:
    path.write_text(source)
    return path


def given(*files: Path, environment: dict[str, str] | None = None) -> Registry:
    return Registry.discover(environment or {}, files=files)


def resolved(registry: Registry, **values: object) -> RunConfig:
    return resolve_config(ConfigRequest(values=values), registry).config


# Reading and loading.


def test_a_file_is_read_and_not_run(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.py", "raise RuntimeError('run')")
    (record,) = [record for record in given(path).plugins() if record.info.file is not None]
    assert (record.state, record.info.namespace) == (PluginState.NOT_LOADED, "mine")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert record.info.provider == f"mine.py (sha256 {digest[:12]})"


def test_its_components_are_used_by_name(file: Path) -> None:
    registry = given(file)
    spec = registry.get("decomposition", "mine/average")
    component = registry.load_factory(spec)
    assert component.__module__ in sys.modules
    assert "mine" not in sys.modules
    assert Path(sys.modules[component.__module__].__file__ or "") == file
    assert not (file.parent / "__pycache__").exists()
    assert component.__name__ == "Average"


def test_a_file_runs_once_a_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "mine.py", "print('run')\n" + AVERAGE)
    classes = [
        registry.load_factory(registry.get("decomposition", "mine/average")) for registry in (given(path), given(path))
    ]
    assert classes[0] is classes[1]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "run\n")


def test_a_changed_file_is_another_module(file: Path) -> None:
    before = given(file).get("decomposition", "mine/average")
    write(file, AVERAGE + "\n# changed")
    after = given(file).get("decomposition", "mine/average")
    assert before.spec.factory != after.spec.factory
    assert Registry.discover({}).plugin("mine") is None


def test_what_runs_is_what_was_hashed(file: Path) -> None:
    registry = given(file)
    write(file, "raise RuntimeError")
    assert registry.load("mine").state is PluginState.LOADED


def test_paths_are_absolute_and_each_is_read_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    registry = given(Path("mine.py"), file)
    assert registry.plugin("mine") == given(file).plugin("mine")
    assert PluginFile.read("mine.py").path == file


def test_a_module_name_is_one_that_nothing_has(tmp_path: Path) -> None:
    for name in ("torch", "os", "2-d"):
        registry = given(write(tmp_path / f"{name}.py", AVERAGE))
        before = sys.modules.get(name)
        assert registry.load(name).state is PluginState.LOADED, registry.load(name).message
        assert sys.modules.get(name) is before
        assert registry.load_factory(registry.get("decomposition", f"{name}/average"))


def test_its_future_imports_are_its_own(tmp_path: Path) -> None:
    check = "\ndef annotated(x: int): ...\nassert annotated.__annotations__ == {'x': int}"
    assert given(write(tmp_path / "mine.py", AVERAGE + check)).load("mine").message == ""


# Refused.

REFUSED = {
    "missing": ("none.py", None, "cannot be read: No such file"),
    "folder": ("folder.py", "/", "got a folder"),
    "no python": ("photo.jpg", "", "expected a Python file, NAME.py"),
    "spelling": ("My File.py", AVERAGE, "expected lower-case letters, digits, - and _, got 'My File'; rename"),
    "builtin": ("builtin.py", AVERAGE, "'builtin' is taken by decomposable-flow-matching"),
    "all": ("all.py", AVERAGE, "'all' is taken"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_files(case: str, tmp_path: Path) -> None:
    name, content, reason = REFUSED[case]
    path = tmp_path / name
    if content == "/":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    with pytest.raises(PluginError, match=f"plugin file {path}: .*{reason}"):
        given(path)


def test_two_files_of_one_namespace(file: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other" / "mine.py", AVERAGE)
    with pytest.raises(PluginError, match=f"plugin file {file}: {other} has the same namespace, 'mine'"):
        given(file, other)


def test_the_namespace_of_an_installed_plugin(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = FakeSite(tmp_path / "site", monkeypatch)
    site.folder.mkdir()
    site.plugin("mine", "raise RuntimeError")
    with pytest.raises(
        PluginError, match=f"{file}: the installed plugin of dfm-mine 1.2 has the same namespace, 'mine'"
    ):
        given(file)
    for registry in (
        given(file, environment={"DFM_DISABLE_PLUGINS": "mine"}),
        Registry.discover({}, files=[file], builtin_only=True),
    ):
        assert registry.get("decomposition", "mine/average").plugin.file is not None


BROKEN = {
    "syntax": ("def", "SyntaxError"),
    "bytes": ("\0", "null bytes"),
    "import": ("import no_such_module", "No module named 'no_such_module'; a plugin file is loaded alone"),
    "raises": ("raise RuntimeError('odd')", "RuntimeError: odd"),
    "exit": ("raise SystemExit(3)", "SystemExit: 3"),
    "odd exit": ("class Odd(BaseException): ...\nraise Odd('gone')", "Odd: gone"),
    "nothing": (PREAMBLE, r"it lists nothing; expected a function such as dfm_\w+\(\), marked with @hookimpl"),
    "empty list": (PREAMBLE + "@hookimpl\ndef dfm_decompositions(): return []", "it lists nothing"),
    "rubbish": (PREAMBLE + "@hookimpl\ndef dfm_decompositions(): return 3", "must return a list of DecompositionSpec"),
    "misspelt": (PREAMBLE + "@hookimpl\ndef dfm_decomposition(): return []", "no hook 'dfm_decomposition'"),
    "address": (AVERAGE.replace('f"{__name__}:Average"', '"mine:Average"'), 'expected factory=f"{__name__}:Average"'),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files(case: str, tmp_path: Path) -> None:
    source, reason = BROKEN[case]
    path = write(tmp_path / "mine.py", source)
    registry = given(path)
    record = registry.load("mine")
    assert record.state is PluginState.BROKEN
    assert "Traceback" in record.traceback
    with pytest.raises(
        PluginError, match=rf"(?s)plugin 'mine' of mine.py \(sha256 \w+\) is broken: .*{reason}"
    ) as caught:
        registry.require_files()
    assert f"`dfm plugins show mine --plugin {path}` says more" in str(caught.value)
    assert caught.value.__cause__ is record.cause
    ran_to_its_end = "__name__" in source or "hookimpl" in source
    assert (PluginFile.read(path).module in sys.modules) == ran_to_its_end


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("x = 1", "declares no DFM_PLUGIN_API"),
        ("DFM_PLUGIN_API = 2\n" + STEERABLE, "API 2, this is 1; update decomposable-flow-matching"),
        ("DFM_PLUGIN_API = 0", "API 0, this is 1; update the plugin"),
    ],
)
def test_incompatible_files(source: str, reason: str, tmp_path: Path) -> None:
    record = given(write(tmp_path / "mine.py", source)).load("mine")
    assert record.state is PluginState.INCOMPATIBLE
    assert reason in record.message


def test_a_forgotten_namespace_is_suggested(file: Path) -> None:
    registry = given(file)
    registry.load_files()
    with pytest.raises(UnknownComponentError, match="unknown decomposition 'average'. Did you mean 'mine/average'?"):
        registry.get("decomposition", "average")
    with pytest.raises(UnknownComponentError, match="a plugin in one file is given with --plugin FILE"):
        registry.get("decomposition", "other/average")


# Recorded.


def test_a_configuration_records_the_files_that_it_uses(file: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.py", AVERAGE)
    result = resolve_config(ConfigRequest(values={"decomposition": "mine/average"}), given(file, other))
    (record,) = result.config.plugin_files.values()
    assert record.path == str(file)
    assert record.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert result.origins["plugin_files.mine.path"] == "the file that was given"
    assert result.warnings == ()
    assert not resolve_config(ConfigRequest(), given(file)).config.plugin_files


@pytest.fixture
def recorded(file: Path, tmp_path: Path) -> Path:
    """The config.yaml of a run that was made with the file."""
    config = resolve_config(ConfigRequest(values={"decomposition": "mine/average"}), given(file)).config
    return write(tmp_path / "config.yaml", to_yaml(config))


def test_the_file_is_asked_for_again(file: Path, recorded: Path) -> None:
    assert read_config(recorded, given(file)).warnings == ()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    message = (
        rf"decomposition 'mine/average' was made with the plugin file {file} \(sha256 {digest[:12]}\), which is loaded "
        rf"only when it is given: add `--plugin {file}`"
    )
    with pytest.raises(PluginError, match=message):
        read_config(recorded, given())


def test_a_recorded_path_is_never_loaded(file: Path, recorded: Path) -> None:
    write(file, "raise RuntimeError('loaded')")
    with pytest.raises(PluginError, match="add `--plugin"):
        read_config(recorded, given())


def test_a_changed_file_is_told_and_recorded(file: Path, recorded: Path) -> None:
    before = read_config(recorded, given(file)).config
    write(file, AVERAGE + "\n# changed")
    result = read_config(recorded, given(file))
    was, now = (config.plugin_files["mine"].sha256 for config in (before, result.config))
    assert was != now
    (message,) = result.warnings
    assert str(file) in message
    assert f"was sha256 {was[:12]}, now it is sha256 {now[:12]}" in message
    assert check_resume(before, result.config, given(file)) == ()


def test_a_moved_file_is_the_same(file: Path, recorded: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = file.rename(tmp_path / "elsewhere" / "mine.py")
    result = read_config(recorded, given(moved))
    assert result.warnings == ()
    assert result.config.plugin_files["mine"].path == str(moved)


def test_another_component_needs_no_file(recorded: Path) -> None:
    values = {"decomposition": {"name": "laplacian", "options": {}}}
    assert not resolve_config(ConfigRequest(base=recorded, values=values), given()).config.plugin_files


def test_a_package_that_took_the_place_of_a_file(
    file: Path, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = FakeSite(tmp_path / "site", monkeypatch)
    site.folder.mkdir()
    site.module("mine_plugin", AVERAGE, preamble="")
    site.distribution("dfm-mine", "1.2", "mine = mine_plugin")
    result = read_config(recorded, given())
    assert not result.config.plugin_files
    (message,) = result.warnings
    assert f"plugin 'mine' was the plugin file {file}" in message
    assert "now is the installed dfm-mine 1.2" in message


def test_workers_cannot_load_from_a_file(tmp_path: Path) -> None:
    registry = given(write(tmp_path / "greys.py", DATA))
    message = "workers: expected 0, got 2: the data set 'greys/grey' comes from the plugin file .*greys.py.*plugins new"
    with pytest.raises(ConfigError, match=message):
        resolved(registry, dataset="greys/grey", workers=2)
    assert resolved(registry, dataset="greys/grey")
    unasked = resolve_config(ConfigRequest(accelerator=True, values={"dataset": "greys/grey"}), registry)
    assert unasked.config.workers == 0
    assert resolved(given(write(tmp_path / "mine.py", AVERAGE)), decomposition="mine/average", workers=2)


@pytest.mark.parametrize(
    ("name", "namespace"), [("laplacian", ""), ("acme/steerable", "acme"), ("object:pkg.Class", ""), ("object:a/b", "")]
)
def test_namespaces_of_names(name: str, namespace: str) -> None:
    assert namespace_of(name) == namespace


# In Python.


def test_train_load_and_export(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run, exported = tmp_path / "run", tmp_path / "model"
    model = train(**TINY, decomposition="mine/average", output=str(run), registry=given(file))
    assert model.composition.config.plugin_files["mine"].path == str(file)
    model.export(exported)
    for saved in (run, exported):
        with pytest.raises(PluginError, match=f"add `--plugin {file}`"):
            load(saved, device="cpu", registry=given())
        assert load(saved, device="cpu", registry=given(file)).generate(1).shape == (1, 3, 16, 16)
    assert not caplog.messages
    write(file, AVERAGE + "\n# changed")
    with caplog.at_level(logging.WARNING, "dfm"):
        assert load(exported, device="cpu", registry=given(file)).decompose
    (message,) = caplog.messages
    assert f"plugin file {file} is not the one that this was made with" in message
    with pytest.raises(PluginError, match="add `--plugin"):
        train(resume=run, max_steps=2, quiet=True, registry=given())
    assert train(resume=run, max_steps=2, quiet=True, registry=given(file))


def test_a_model_needs_no_file_for_its_data(tmp_path: Path) -> None:
    file, run = write(tmp_path / "greys.py", DATA), tmp_path / "run"
    train(**TINY, dataset="greys/grey", output=str(run), registry=given(file))
    model = load(run, device="cpu", registry=given())
    model.export(tmp_path / "model")
    again = load(tmp_path / "model", device="cpu", registry=given())
    assert again.composition.config.plugin_files["greys"].path == str(file)
    assert again.assembler.providers()["dataset"]["distribution"] == "greys.py"


def test_build_with_a_file(file: Path) -> None:
    settings = {key: value for key, value in TINY.items() if key not in ("batch_size", "max_steps", "quiet")}
    model = build(**settings, decomposition="mine/average", registry=given(file))
    assert type(model.composition.space.decomposition).__name__ == "Average"
