"""`dfm plugins new`: what it prints, what it refuses."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from command_tools import Dfm, Rejected

from dfm_core.plugins.kinds import KINDS

NEW = ["plugins", "new", "acme", "--kind", "decomposition", "--name", "steerable"]


@pytest.fixture(autouse=True)
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_writes_a_package_into_the_working_directory(dfm: Dfm, tmp_path: Path) -> None:
    lines = dfm(*NEW).lines
    assert (tmp_path / "dfm-acme" / "dfm_acme" / "steerable.py").is_file()
    assert lines[0].startswith("wrote dfm-acme: ")
    assert lines[1] == "the component to edit: dfm-acme/dfm_acme/steerable.py"
    assert [line.strip() for line in lines[lines.index("next:") + 1 :]] == [
        "pip install -e 'dfm-acme[test]'",
        "dfm plugins check acme/steerable",
        "pytest dfm-acme",
        "dfm train --decomposition acme/steerable",
    ]


def test_json(dfm: Dfm, tmp_path: Path) -> None:
    made = dfm(*NEW, "--output", tmp_path / "my work", "--json").json
    folder = tmp_path / "my work" / "dfm-acme"
    assert made["folder"] == str(folder)
    assert {key: made[key] for key in ("distribution", "package", "component", "kind")} == {
        "distribution": "dfm-acme",
        "package": "dfm_acme",
        "component": "acme/steerable",
        "kind": "decomposition",
    }
    assert sorted(made["files"]) == made["files"]
    assert all((folder / file).is_file() for file in made["files"])
    assert shlex.split(made["next"][0]) == ["pip", "install", "-e", f"{folder}[test]"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_in_either_spelling(kind: str, dfm: Dfm) -> None:
    dfm("plugins", "new", "acme", "--kind", kind.replace("_", "-"), "--name", "steerable")
    assert 'factory="dfm_acme.steerable:Steerable"' in Path("dfm-acme/dfm_acme/plugin.py").read_text()


def test_refusals(dfm: Dfm, rejected: Rejected, tmp_path: Path) -> None:
    assert "Did you mean 'backbone'" in rejected("plugins", "new", "acme", "--kind", "backbon", "--name", "x")
    assert "belongs to" in rejected("plugins", "new", "builtin", "--kind", "backbone", "--name", "x")
    assert "expected lower-case" in rejected("plugins", "new", "acme", "--kind", "backbone", "--name", "My-Net")
    assert list(tmp_path.iterdir()) == []
    dfm(*NEW)
    assert rejected("plugins", "new", "acme", "--kind", "backbone", "--name", "net").startswith("dfm-acme exists")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "dfm-acme"]
    (tmp_path / "file").write_text("")
    assert "choose another --output" in rejected(*NEW, "--output", "file", code=1)


@pytest.mark.parametrize("missing", ["--kind", "--name"])
def test_kind_and_name_are_needed(missing: str, dfm: Dfm) -> None:
    index = NEW.index(missing)
    assert missing in dfm(*NEW[:index], *NEW[index + 2 :], code=2).err
