"""What `dataset.json` files say of shards."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from dfm_core.errors import DataError
from dfm_core.interfaces.dataset import SHARD_DESCRIPTION, ShardDescription
from dfm_plugins.datasets.shard_cache import AbsentError, download
from dfm_plugins.datasets.shard_sources import base_name, is_remote, printable, sibling

_LOGGER = logging.getLogger("dfm")
_LARGEST = 1 << 26


@dataclass(frozen=True)
class DescribedShards:
    """What is known of shards before any is opened. counts: shard -> samples. common: what all descriptions share."""

    counts: dict[str, int]
    common: ShardDescription


def describe_shards(shards: Sequence[str]) -> DescribedShards | None:
    """Read the descriptions in the shards' folders; None where no folder has one.

    Raises DataError where a description is broken, lacks a shard, or does not fit the others.
    """
    places = list(dict.fromkeys(sibling(shard, SHARD_DESCRIPTION) for shard in shards))
    read = {place: _read(place) for place in places}
    found = {place: description for place, description in read.items() if description is not None}
    if not found:
        return None
    without = next((place for place in places if place not in found), None)
    if without is not None:
        raise DataError(
            f"{printable(next(iter(found)))} describes its shards, expected {printable(without)} to as well"
        )
    first, *others = found
    common = found[first].model_copy(update={"shards": {}})
    for place in others:
        if found[place].model_copy(update={"shards": {}}) != common:
            raise DataError(
                f"{printable(first)} and {printable(place)} describe different data; use them one at a time"
            )
    return DescribedShards(_counts(shards, found), common)


def _counts(shards: Sequence[str], found: dict[str, ShardDescription]) -> dict[str, int]:
    counts = {}
    for shard in shards:
        place = sibling(shard, SHARD_DESCRIPTION)
        count = found[place].shards.get(base_name(shard))
        if count is None:
            raise DataError(
                f"{printable(place)} lists {len(found[place].shards)} shards and {base_name(shard)} is none of them: "
                "it was not finished, or is of other shards; write it again, or take it away"
            )
        counts[shard] = count
    unused = sum(len(description.shards) for description in found.values()) - len(counts)
    if unused:
        _LOGGER.warning("%d shards that %s lists are not used", unused, SHARD_DESCRIPTION)
    return counts


def _read(place: str) -> ShardDescription | None:
    try:
        content = _content(place)
    except (AbsentError, FileNotFoundError):
        return None
    except OSError as error:
        raise DataError(f"cannot read {place}: {error.strerror}") from error
    try:
        return ShardDescription.model_validate_json(content)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(map(str, detail["loc"]))
        raise DataError(f"{printable(place)}: {where}{': ' if where else ''}{detail['msg']}; write it again") from error


def _content(place: str) -> bytes:
    if not is_remote(place):
        with open(place, "rb") as file:
            return file.read(_LARGEST)
    memory = io.BytesIO()
    download(place, memory, _LARGEST)
    return memory.getvalue()
