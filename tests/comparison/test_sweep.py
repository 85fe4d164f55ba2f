"""Values of keys to variants."""

from __future__ import annotations

import re

import pytest

from dfm_core.comparison.sweep import read_sweep, sweep_levels
from dfm_core.errors import ConfigError


def test_every_combination_is_a_variant() -> None:
    levels = sweep_levels({"training.learning_rate": [1e-3, 2e-3], "flow.standardize": [True, False]})
    assert list(levels) == [
        *("learning_rate=0.001, standardize=true", "learning_rate=0.001, standardize=false"),
        *("learning_rate=0.002, standardize=true", "learning_rate=0.002, standardize=false"),
    ]
    assert levels["learning_rate=0.002, standardize=true"] == {
        "training.learning_rate": 2e-3,
        "flow.standardize": True,
    }


def test_values_taken_together() -> None:
    levels = sweep_levels({"stages": [[8, 16], [[8, 8], [16, 32]]], "a.steps": [[3, 1], 4]}, together=True)
    assert list(levels) == ["stages=8-16, steps=3-1", "stages=8x8-16x32, steps=4"]


def test_names_that_are_given() -> None:
    levels = sweep_levels({"decomposition": {"haar": {"name": "dwt", "options": {"wavelet": "haar"}}, "dct": "dct"}})
    assert list(levels) == ["haar", "dct"]
    assert list(sweep_levels({"decomposition": ["dct", {"name": "dwt", "options": {"wavelet": "db2"}}]})) == [
        *("decomposition=dct", "decomposition=dwt wavelet=db2"),
    ]


def test_reading_the_command_line() -> None:
    read = read_sweep(["a.steps=[30,10],[20,20]", "decomposition.name=dct,dwt", "training.learning_rate=1e-3"])
    assert read == {
        "a.steps": [[30, 10], [20, 20]],
        "decomposition.name": ["dct", "dwt"],
        "training.learning_rate": [1e-3],
    }


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a"], "expected KEY=V1,V2"),
        (["a="], "expected KEY=V1,V2"),
        (["a..b=1"], "expected KEY=V1,V2"),
        (["a=1", "a=2"], "--sweep a: stands twice"),
        (["a=[1"], "expected YAML"),
    ],
)
def test_a_sweep_that_cannot_be_read(texts: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_sweep(texts)


def test_sweeps_that_make_no_variants() -> None:
    with pytest.raises(ConfigError, match="a has no values"):
        sweep_levels({"a": []})
    with pytest.raises(ConfigError, match="as many for every key, got a 2, b 1"):
        sweep_levels({"a": [1, 2], "b": [1]}, together=True)
    with pytest.raises(ConfigError, match="two variants are called 'x=1'"):
        sweep_levels({"x": [1, 1]})
