"""`dfm env`: versions and devices."""

from __future__ import annotations

import json
import platform

import pytest
import torch

from dfm_core.cli.app import main
from dfm_core.cli.hardware import uses_accelerator


def test_env_tells_versions_and_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["dfm"] == "0.1.0"
    assert facts["torch"] == torch.__version__
    assert facts["python"].startswith(platform.python_version())
    assert facts["devices"][-1] == "cpu"
    assert {"numpy", "pydantic", "typer", "threads", "platform", "plugins"} <= set(facts)


def test_env_as_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["torch", torch.__version__] in [line.split() for line in lines]


def test_named_devices_need_no_torch() -> None:
    assert not uses_accelerator("cpu")
    assert uses_accelerator("cuda:1")
    assert uses_accelerator("auto") == (torch.cuda.is_available() or torch.backends.mps.is_available())
