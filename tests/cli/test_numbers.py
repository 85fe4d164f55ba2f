"""Numbers as they are shown: three digits, and no exponent for what a reader would write out."""

from __future__ import annotations

import pytest

from dfm_core.cli.numbers import write_amount, write_bytes


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (1000 * 2**20, "1000 MiB"), (1023.6 * 2**20, "1024 MiB")),
        *((999.4 * 2**20, "999 MiB"), (1.234 * 2**30, "1.23 GiB"), (2**50, "1024 TiB")),
    ],
)
def test_bytes(value: float, text: str) -> None:
    assert write_bytes(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.5"), (12345, "12.3 k"), (999_700, "1000 k"), (3.78e15, "3.78 P"), (5e18, "5000 P")]
)
def test_amounts(value: float, text: str) -> None:
    assert write_amount(value) == text
