"""Shards behind a URL: fetched whole and once, kept within a limit, never half there; counted without fetching."""

from __future__ import annotations

import logging
import pickle
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from shard_files import Server, describe, number_of, numbered, serving, write_numbered, write_shard

from dfm_core.errors import DataError, UnreadableSampleError
from dfm_core.interfaces.dataset import DatasetFacts
from dfm_core.training.data import BatchStream
from dfm_plugins.datasets import shard_cache
from dfm_plugins.datasets.shard_cache import ShardCache
from dfm_plugins.datasets.specs import WebDatasetOptions
from dfm_plugins.datasets.webdataset import WebDataset


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    write_numbered(folder, [4, 3, 5])
    return folder


@pytest.fixture
def server(data: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(shard_cache.time, "sleep", lambda seconds: None)
    with serving(data) as running:
        yield running


def described(data: Path) -> None:
    describe(data, {f"shards-{i:04}.tar": n for i, n in enumerate((4, 3, 5))}, classes=["x", "y", "z"])


def remote(server: Server, tmp_path: Path, pattern: str = "shards-{0000..0002}.tar", **more: object) -> WebDataset:
    options = WebDatasetOptions(path=f"{server.url}/{pattern}", cache=str(tmp_path / "cache"), **more)  # type: ignore[arg-type]
    return WebDataset(options, DatasetFacts((2, 2), "train", 0))


def numbers(dataset: WebDataset) -> list[int]:
    return [number_of(dataset.load(index, 0)["image"]) for index in range(len(dataset))]


def copies(tmp_path: Path) -> list[str]:
    return sorted(path.name[:11] for path in (tmp_path / "cache" / "copies").glob("*.tar"))


def tars(server: Server) -> Counter[str]:
    return Counter(name for name in server.requests if name.endswith(".tar"))


def test_shards_are_fetched_once(server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="dfm"):
        dataset = remote(server, tmp_path)
    assert caplog.messages == [
        "3 remote shards are fetched once to count their samples; a dataset.json beside them would save that"
    ]
    assert numbers(dataset) == list(range(12))
    assert dataset.classes == ("0", "1", "2")
    assert numbers(remote(server, tmp_path)) == list(range(12))
    assert set(tars(server).values()) == {1}
    assert copies(tmp_path) == ["shards-0000", "shards-0001", "shards-0002"]
    assert not list((tmp_path / "cache" / "copies").glob("*.part"))


def test_what_a_killed_process_left_of_a_shard_is_removed(server: Server, tmp_path: Path) -> None:
    remote(server, tmp_path)
    for path in [*tmp_path.glob("cache/copies/*"), *tmp_path.glob("cache/indexes/*")]:
        path.unlink()
        path.with_name(f"{path.name}.123.part").write_bytes(b"half")
    assert numbers(remote(server, tmp_path)) == list(range(12))
    assert len([*tmp_path.glob("cache/copies/*.tar")]) == len([*tmp_path.glob("cache/indexes/*.index")]) == 3
    assert not [*tmp_path.glob("cache/*/*.part")]


def test_with_a_description_a_shard_is_fetched_when_it_is_read(
    server: Server, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    described(data)
    dataset = remote(server, tmp_path)
    assert len(dataset) == 12
    assert dataset.classes == ("x", "y", "z")
    assert tars(server) == Counter()
    assert number_of(dataset.load(5, 0)["image"]) == 5
    assert tars(server) == Counter({"shards-0001.tar": 1})
    assert caplog.messages == []


def test_a_remote_shard_that_is_not_as_described(server: Server, data: Path, tmp_path: Path) -> None:
    described(data)
    write_shard(data / "shards-0000.tar", numbered(range(3)))
    write_shard(data / "shards-0001.tar", numbered(range(9)))
    write_shard(data / "shards-0002.tar", [*numbered([9], 0), ("000009.cls", b"9"), *numbered(range(4))])
    dataset = remote(server, tmp_path)
    with pytest.raises(UnreadableSampleError, match=r"0000\.tar: sample 4 of 4 is missing"):
        dataset.load(3, 0)
    with pytest.raises(DataError, match=r"0001\.tar is no longer .* or not what dataset\.json says"):
        dataset.load(4, 0)
    with pytest.raises(UnreadableSampleError, match=r"'000009' \(\.png\): label '9': expected 0…2"):
        dataset.load(7, 0)


def test_copies_beyond_the_limit_go_least_recently_used_first(server: Server, data: Path, tmp_path: Path) -> None:
    described(data)
    room = sum((data / f"shards-{i:04}.tar").stat().st_size for i in (0, 2))
    cache = ShardCache(str(tmp_path / "cache"), limit=room, keep=1)
    addresses = [f"{server.url}/shards-{i:04}.tar" for i in range(3)]
    for address in addresses[:2]:
        cache.path(address)
    cache.path(addresses[0])
    assert cache.path(addresses[2]).is_file()
    assert copies(tmp_path) == ["shards-0000", "shards-0002"]
    tight = ShardCache(str(tmp_path / "cache"), limit=1, keep=2)
    tight.path(addresses[1])
    assert copies(tmp_path) == ["shards-0001", "shards-0002"], "those in use stay, whatever the limit"


def test_an_epoch_works_with_less_space_than_the_data(server: Server, data: Path, tmp_path: Path) -> None:
    write_numbered(data, [4] * 12)
    size = (data / "shards-0000.tar").stat().st_size / 1e9
    more = {"shuffle_window": 2, "cache_gigabytes": 3 * size}
    counted = remote(server, tmp_path, "shards-{0000..0011}.tar", **more)
    assert len(copies(tmp_path)) == 3
    server.requests.clear()
    batches = BatchStream(counted, 4, seed=1).batches(0, 12)
    assert sorted(number_of(image) for batch in batches for image in batch["image"]) == list(range(48))
    assert len(copies(tmp_path)) == 3
    assert sum(tars(server).values()) <= 12 + 2
    server.requests.clear()
    assert len(remote(server, tmp_path, "shards-{0000..0011}.tar", **more)) == 48
    assert tars(server) == Counter(), "their indexes are kept"


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        (["404"], r"cannot fetch http://127.*shards-0000\.tar: the server answers 404"),
        (["400"], r"the server answers 400"),
        (["503"] * 4, r"the server answers 503.*check the address and the network"),
        (["short"] * 4, r"9 of 1000000 bytes arrived"),
        (["page"], r"shards-0000\.tar is no tar archive: it is a web page"),
    ],
)
def test_what_a_server_can_do_wrong(server: Server, tmp_path: Path, faults: list[str], message: str) -> None:
    server.faults["shards-0000.tar"] = [*faults]
    with pytest.raises(DataError, match=message):
        remote(server, tmp_path)
    assert copies(tmp_path) == []
    assert not list((tmp_path / "cache" / "copies").glob("*.part"))
    assert numbers(remote(server, tmp_path)) == list(range(12)), "and when it is well again, all is"


def test_a_bad_moment_is_waited_out(server: Server, tmp_path: Path) -> None:
    server.faults["shards-0001.tar"] = ["503", "short", "429"]
    assert numbers(remote(server, tmp_path)) == list(range(12))
    assert tars(server)["shards-0001.tar"] == 4


def test_a_server_that_is_away_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_cache.time, "sleep", lambda seconds: None)
    options = WebDatasetOptions(path="http://user:secret@127.0.0.1:9/a.tar?token=hidden", cache=str(tmp_path))
    with pytest.raises(DataError, match=r"cannot fetch http://127\.0\.0\.1:9/dataset\.json: ") as caught:
        WebDataset(options, DatasetFacts((2, 2), "train", 0))
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_a_shard_that_changed_on_the_server_stops_the_run(server: Server, data: Path, tmp_path: Path) -> None:
    dataset = remote(server, tmp_path)
    copy = pickle.loads(pickle.dumps(dataset))
    next((tmp_path / "cache" / "copies").glob("shards-0000*.tar")).unlink()
    assert number_of(copy.load(0, 0)["image"]) == 0, "fetched again, as when it was removed for space"
    write_shard(data / "shards-0000.tar", numbered(range(4), 2))
    next((tmp_path / "cache" / "copies").glob("shards-0000*.tar")).unlink()
    with pytest.raises(DataError, match=r"0000\.tar is no longer what it was"):
        pickle.loads(pickle.dumps(dataset)).load(0, 0)


def test_addresses_of_files_are_copied_too(data: Path, tmp_path: Path) -> None:
    described(data)
    options = WebDatasetOptions(path=f"file://{data}/shards-{{0000..0002}}.tar", cache=str(tmp_path / "cache"))
    dataset = WebDataset(options, DatasetFacts((2, 2), "train", 0))
    assert copies(tmp_path) == []
    assert numbers(dataset) == list(range(12))
    assert len(copies(tmp_path)) == 3
    absent = options.model_copy(update={"path": f"file://{data}/absent-{{0..1}}.tar"})
    (data / "dataset.json").unlink()
    with pytest.raises(DataError, match=r"cannot fetch file://.*absent-0\.tar: there is no such file"):
        WebDataset(absent, DatasetFacts((2, 2), "train", 0))


def test_shards_of_one_name_in_two_folders_are_two(server: Server, data: Path, tmp_path: Path) -> None:
    write_shard(data / "other" / "shards-0000.tar", numbered(range(50, 53)))
    addresses = (f"{server.url}/shards-0000.tar", f"{server.url}/other/shards-0000.tar")
    options = WebDatasetOptions(path=addresses, cache=str(tmp_path / "cache"))
    dataset = WebDataset(options, DatasetFacts((2, 2), "train", 0))
    assert numbers(dataset) == [0, 1, 2, 3, 50, 51, 52]


def test_several_that_want_a_shard_fetch_it_once(server: Server, tmp_path: Path) -> None:
    cache = ShardCache(str(tmp_path / "cache"), None, 1)
    threads = [threading.Thread(target=cache.path, args=(f"{server.url}/shards-0000.tar",)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tars(server) == Counter({"shards-0000.tar": 1})


def test_a_full_disk_is_said_and_leaves_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(url: str, file: object, most: int | None = None) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shard_cache, "download", full)
    cache = ShardCache(str(tmp_path / "cache"), None, 1)
    with pytest.raises(DataError, match=r"cannot keep http://.*No space left on device; free space, lower"):
        cache.path(f"{server.url}/shards-0000.tar")
    assert list((tmp_path / "cache" / "copies").iterdir()) == []


def test_names_of_copies_are_harmless(tmp_path: Path) -> None:
    cache = ShardCache(str(tmp_path), None, 1)
    for address in (
        "http://h/../../etc/passwd",
        "http://h/a%2F..%2Fb.tar?x=/../y",
        "http://h/",
        "http://h/" + "n" * 300,
    ):
        path = cache.index_path(address)
        assert path.parent == tmp_path / "indexes"
        assert len(path.name) < 120
        assert path.name.removesuffix(".index").replace("-", "").replace("_", "").isalnum()


def test_a_description_must_not_be_endless(server: Server, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (data / "dataset.json").write_bytes(b" " * 3_000_000)
    monkeypatch.setattr("dfm_plugins.datasets.shard_description._LARGEST", 1_000_000)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"dataset\.json: expected at most 1000000 bytes"):
        remote(server, data)
    assert time.monotonic() - start < 5
