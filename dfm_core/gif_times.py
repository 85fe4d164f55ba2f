"""How long each frame of a GIF is shown, read from its blocks: nothing is decoded."""

from __future__ import annotations

from fractions import Fraction

_DEFAULT = Fraction(1, 10)  # what browsers show where a GIF says 0
_HEADER, _IMAGE = 13, 10
_EXTENSION, _PICTURE, _END = b"!,;"
_GRAPHIC_CONTROL = 0xF9


def gif_durations(content: bytes) -> list[Fraction]:
    """Seconds that each frame is shown, of a whole file (GIF89a specification, sections 18 to 27).

    Raises ValueError where the file ends within a frame, or where there is no block at the place of one; the end mark
    itself may be missing, as it is in many files.
    """
    durations, shown = [], Fraction(0)
    place = _HEADER + _palette_bytes(content[10])
    try:
        while place < len(content) and (kind := content[place]) != _END:
            if kind == _EXTENSION:
                if content[place + 1] == _GRAPHIC_CONTROL:
                    shown = Fraction(int.from_bytes(content[place + 4 : place + 6], "little"), 100)
                place = _after_data(content, place + 2)
            elif kind == _PICTURE:
                palette = _palette_bytes(content[place + _IMAGE - 1])
                place = _after_data(content, place + _IMAGE + palette + 1)
                durations.append(shown or _DEFAULT)
                shown = Fraction(0)
            elif kind == 0:  # a superfluous end of data
                place += 1
            else:
                raise ValueError(f"it is damaged after {len(durations)} frames")
    except IndexError:
        raise ValueError(f"it is cut off after {len(durations)} frames") from None
    return durations


def _palette_bytes(flags: int) -> int:
    """Bytes of the colour table that a byte of flags announces."""
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _after_data(content: bytes, place: int) -> int:
    """Where the blocks of data that begin at `place` have ended."""
    while length := content[place]:
        place += length + 1
    return place + 1
