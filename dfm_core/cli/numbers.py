"""Numbers as users write them on the command line, and as they read them."""

from __future__ import annotations

from dfm_core.errors import UsageError

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BINARY = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def read_numbers(text: str | None, flag: str) -> list[float] | None:
    """Read "0.9,0.8"; None stays. Raises UsageError naming the flag."""
    try:
        return None if text is None else [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{flag}: expected numbers separated by commas, like 0.9,0.8; got {text!r}") from None


def read_counts(text: str | None, flag: str) -> list[int] | None:
    """Read "30,10"; None stays. Raises UsageError naming the flag."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{flag}: expected whole numbers separated by commas, like 30,10; got {text!r}") from None


def _three_digits(value: float) -> str:
    """Three digits, or all before the point, without an exponent: 1.5, 12.3, 1020."""
    return f"{value:.0f}" if value >= 999.5 else f"{value:.3g}"


def write_amount(value: float) -> str:
    """Write a large number with three digits and a decimal prefix: 12345 -> "12.3 k"."""
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{_three_digits(value / size)} {prefix}"
    return _three_digits(value)


def write_bytes(value: float) -> str:
    """Write a number of bytes with three digits: 1536 -> "1.5 KiB"."""
    for size, unit in _BINARY:
        if value >= size:
            return f"{_three_digits(value / size)} {unit}"
    return f"{_three_digits(value)} B"
