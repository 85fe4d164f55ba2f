"""`dfm plugins check`: the table, its JSON, the exit codes; a component of a plugin file, judged to the end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from command_tools import Dfm, Rejected
from fake_plugins import FakeSite
from law_breakers import BROKEN, install_broken

from dfm_core.conformance import LawResult, composition, dataset, laws_of
from dfm_core.plugins.kinds import KINDS

QUICK = ["--set", "depth=1", "--set", "width=16", "--set", "heads=1"]
HELD = LawResult("fits_the_default_partners", "It fits.", "held", cases=1)

TINY = """
from dfm_core.plugins import BackboneSpec, hookimpl
from dfm_plugins.backbones.dit import DiT
from dfm_plugins.backbones.specs import DiTOptions

DFM_PLUGIN_API = 1

class TinyOptions(DiTOptions):
    depth: int = 1
    width: int = 16
    heads: int = 1

class Tiny(DiT):
    pass

@hookimpl
def dfm_backbones():
    return [BackboneSpec("tiny", "A tiny transformer.", f"{__name__}:Tiny", TinyOptions)]
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken plugin is installed."""
    install_broken(FakeSite(tmp_path, monkeypatch))


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is made and no process started: that takes seconds."""
    monkeypatch.setattr(composition, "check_composition", lambda *_, **__: (HELD,))
    monkeypatch.setattr(dataset, "call_fresh", lambda function, *given: function(*given))


@pytest.mark.usefixtures("no_model")
def test_a_table_says_what_was_measured(dfm: Dfm) -> None:
    result = dfm("plugins", "check", "dwt", "--set", "domain=coefficients", "--set", "wavelet=db2")
    rows = {line.split()[0]: line.split()[1:] for line in result.lines if line}
    assert result.lines[0] == "Laws for the decomposition dwt"
    assert result.lines[1].split() == ["law", "state", "measured", "bound", "cases", "what", "to", "do"]
    assert rows["critically_sampled"] == ["held", "0", "≤", "0", "26"]
    assert rows["perfect_reconstruction"][0] == "held"
    assert float(rows["perfect_reconstruction"][1]) < 1e-5
    assert rows["builds_from_facts"] == ["held", "26"]
    assert rows["fits_the_default_partners"] == ["held", "1"]
    assert set(rows) >= {law.name for law in laws_of("decomposition")}
    assert result.err.splitlines()[-1].startswith("22 held")


@pytest.mark.usefixtures("no_model")
def test_each_law_is_told_of_when_it_is_judged(dfm: Dfm) -> None:
    told = [line.strip() for line in dfm("plugins", "check", "dit", *QUICK).err.splitlines() if line.startswith("  ")]
    names = [law.name for law in laws_of("backbone")]
    assert [line.split(":")[0] for line in told] == ["builds_from_facts", *names]
    assert all(re.fullmatch(r"\w+: (held|skipped) \(\d+\.\d s\)", line) for line in told)
    assert dfm("plugins", "check", "dit", *QUICK, "--quiet").err == ""
    assert "held (" not in dfm("plugins", "check", "dit", *QUICK, "--json").err


@pytest.mark.usefixtures("no_model")
def test_bounds_that_are_a_least_look_so(dfm: Dfm) -> None:
    lines = dfm("plugins", "check", "dit", *QUICK, "--quiet").lines
    (row,) = [line.split() for line in lines if line.startswith("depends_on_time ")]
    assert row[1:2] + row[3:] == ["held", "≥", "1e-05", "5"]


@pytest.mark.usefixtures("no_model", "site")
@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_law_is_named_with_what_to_do(kind: str, dfm: Dfm) -> None:
    options = QUICK if kind == "backbone" else []
    result = dfm("plugins", "check", f"acme/{kind}", "--kind", kind, *options, "--json", code=1)
    assert result.json["holds"] is False
    assert {key: result.json[key] for key in ("name", "kind", "distribution", "version")} == {
        "name": f"acme/{kind}",
        "kind": kind,
        "distribution": "dfm-acme",
        "version": "1.2",
    }
    (found,) = [row for row in result.json["laws"] if row["state"] == "broken"]
    assert found["law"] == BROKEN[kind]
    assert "first:" in found["message"]
    assert result.json["composition"] == ([HELD.as_dict()] if KINDS[kind].part_of_run else [])
    assert "1 broken" in result.err


@pytest.mark.usefixtures("no_model", "site")
def test_debug_shows_the_traceback(dfm: Dfm) -> None:
    plain = dfm("plugins", "check", "acme/crashing", code=1)
    assert "perfect_reconstruction" in plain.out
    assert "IndexError: too many channels for me [in 2 of 14 cases" in plain.out
    assert "Traceback" not in plain.err
    assert "Traceback" in dfm("plugins", "check", "acme/crashing", "--debug", code=1).err


@pytest.mark.usefixtures("no_model", "site")
def test_wrong_usage(rejected: Rejected) -> None:
    assert "Did you mean 'laplacian'" in rejected("plugins", "check", "laplacain")
    message = rejected("plugins", "check", "progressive")
    assert message.startswith("'progressive' is a stage schedule and a timestep sampler: say which with --kind stage_")
    assert "Did you mean 'backbone'" in rejected("plugins", "check", "dit", "--kind", "backbon")
    assert "depht: unknown key. Did you mean 'depth'?" in rejected("plugins", "check", "dit", "--set", "depht=1")
    assert "expected OPTION=VALUE" in rejected("plugins", "check", "dit", "--set", "depth")
    assert "expected OPTION=VALUE" in rejected("plugins", "check", "dit", "--set", "backbone.options.depth=1")
    assert "dataset.options.path: expected a value" in rejected("plugins", "check", "folder")
    assert "no plugin 'absent' is installed" in rejected("plugins", "check", "absent/thing")
    assert "disabled by --no-plugins" in rejected("plugins", "check", "acme/crashing", "--no-plugins")


def test_a_plugin_file_is_known_to_the_fresh_process_too(dfm: Dfm, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TINY)
    result = dfm("plugins", "check", "mine/tiny", "--plugin", tmp_path / "mine.py", "--json")
    assert result.json["holds"] is True
    assert result.json["options"]["depth"] == 1
    made = {row["law"]: row["state"] for row in result.json["composition"]}
    assert made == {law.name: "held" for law in laws_of("composition")}
