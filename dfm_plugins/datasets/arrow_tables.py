"""Tables of the library `datasets`, opened without its hub: saved to disk, made of local files, or in its cache."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dfm_core.errors import DataError, UsageError
from dfm_core.images import image_endings

_TABLES = {".parquet": "parquet", ".arrow": "arrow"}


def require_library() -> Any:
    """Return the module `datasets`. Raises UsageError saying what to install where it is missing."""
    try:
        import datasets
    except ImportError as error:
        raise UsageError(
            "the data set hugging_face needs the library datasets: "
            f"pip install 'decomposable-flow-matching[data]' ({error})"
        ) from error
    return datasets


def open_tables(path: str, configuration: str | None, cache: str | None) -> Mapping[str, Any]:
    """Return the tables of each split, by its name; a table without splits is called "train".

    path: a folder or file of this machine, or the name of a data set that the library has in its cache already. Raises
    DataError where there is nothing to be read; nothing is ever fetched, and no code of a data set is run.
    """
    library = require_library()
    place = Path(path).expanduser().absolute()
    try:
        with _without_hub(library):
            if place.exists():
                found = _from_disk(library, place, cache)
            else:
                found = _from_cache(library, path, configuration, cache)
    except DataError:
        raise
    # Broken files make the library and Arrow raise anything.
    except Exception as error:
        raise DataError(f"cannot read {path} as a data set: {type(error).__name__}: {error}") from error
    return found if isinstance(found, dict) else {"train": found}


def trusted_folders(path: str, cache: str | None) -> tuple[str, ...]:
    """Folders whose files a table may name: its own, or the library's where it lies in the library's cache."""
    place = Path(path).expanduser().absolute()
    if place.exists():
        return (os.path.normpath(place if place.is_dir() else place.parent),)
    config = require_library().config
    return tuple(os.path.abspath(folder) for folder in (config.HF_CACHE_HOME, cache or config.HF_DATASETS_CACHE))


def _from_disk(library: Any, place: Path, cache: str | None) -> Any:
    if place.is_dir() and ((place / "dataset_dict.json").is_file() or (place / "state.json").is_file()):
        _check_states(place)
        return library.load_from_disk(str(place))
    kind = _kind_of(place)
    where = {"data_dir": str(place)} if place.is_dir() else {"data_files": str(place)}
    return library.load_dataset(kind, cache_dir=cache, **where)


def _kind_of(place: Path) -> str:
    """Name of the reader for a file, or for the files below a folder."""
    if place.is_file():
        files = [place.name]
    else:
        files = [name for _, _, names in os.walk(place) for name in names if not name.startswith(".")]
    endings = {os.path.splitext(name)[1].lower() for name in files}
    for ending, kind in _TABLES.items():
        if ending in endings:
            return kind
    if place.is_dir() and endings & image_endings():
        return "imagefolder"
    listed = ", ".join(sorted(files)[:5]) or "nothing"
    raise DataError(
        f"no data set in {place}: expected a folder from save_to_disk, .parquet or .arrow files, or a folder of "
        f"images; found {listed}"
    )


def _check_states(place: Path) -> None:
    """See that saved tables lie in their own folder, whatever their description says."""
    for state in [*place.glob("state.json"), *place.glob("*/state.json")]:
        for file in json.loads(state.read_text())["_data_files"]:
            name = str(file["filename"])
            if Path(name).name != name:
                raise DataError(f"{state}: expected names of files in its folder, got {name!r}")


def _from_cache(library: Any, name: str, configuration: str | None, cache: str | None) -> Any:
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or "://" in name:
        raise DataError(f"no file or folder {name}; expected one, or the name of a data set as in owner/name")
    from datasets.packaged_modules.cache.cache import Cache

    try:
        builder = Cache(
            cache_dir=cache,
            dataset_name=name.rpartition("/")[2],
            repo_id=name,
            config_name=configuration,
            version="auto",
            hash="auto",
        )
    except ValueError as error:
        folder = cache or library.config.HF_DATASETS_CACHE
        raise DataError(
            f"{name} is neither a file or folder here nor in the cache {folder}, and nothing is downloaded: fetch it "
            f"once with datasets.load_dataset({name!r}), or give a path ({error})"
        ) from error
    return builder.as_dataset()


@contextmanager
def _without_hub(library: Any) -> Iterator[None]:
    """Keep the library from asking its hub for anything, even to count who opens what."""
    before = library.config.HF_HUB_OFFLINE
    library.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        library.config.HF_HUB_OFFLINE = before
