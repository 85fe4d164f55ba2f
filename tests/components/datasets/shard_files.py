"""Tar shards for tests: written member by member, and served over HTTP."""

from __future__ import annotations

import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Member = tuple[str, bytes]


def png(number: int, size: tuple[int, int] = (2, 2)) -> bytes:
    """An image of one colour, which is the number. size: width × height."""
    file = io.BytesIO()
    Image.new("RGB", size, (number >> 16, number >> 8 & 255, number & 255)).save(file, "PNG")
    return file.getvalue()


def number_of(image: Any) -> int:
    """The number that an image of `png` shows."""
    red, green, blue = (round((float(value) + 1) * 127.5) for value in image[:, 0, 0])
    return red << 16 | green << 8 | blue


def npy(array: np.ndarray[Any, Any]) -> bytes:
    """A file of numpy."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_shard(path: Path, members: Sequence[Member | tarfile.TarInfo]) -> Path:
    """Write a tar of files (name, content) and of headers without content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return path


def numbered(numbers: Sequence[int], classes: int = 3) -> list[Member]:
    """Members of samples that show their number, with a label where there are classes."""
    members = []
    for number in numbers:
        members.append((f"{number:06}.png", png(number)))
        if classes:
            members.append((f"{number:06}.cls", str(number % classes).encode()))
    return members


def write_numbered(folder: Path, lengths: Sequence[int], classes: int = 3) -> list[Path]:
    """Write shards-0000.tar and so on, whose samples show 0, 1, 2, … through all shards."""
    paths, start = [], 0
    for index, length in enumerate(lengths):
        members = numbered(range(start, start + length), classes)
        paths.append(write_shard(folder / f"shards-{index:04}.tar", members))
        start += length
    return paths


def describe(folder: Path, lengths: Mapping[str, int], **more: object) -> None:
    """Write dataset.json."""
    (folder / "dataset.json").write_text(json.dumps({"shards": dict(lengths), **more}))


class _Handler(http.server.SimpleHTTPRequestHandler):
    requests: list[str]
    faults: dict[str, list[str]]

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].strip("/")
        self.requests.append(name)
        fault = self.faults[name].pop(0) if self.faults.get(name) else ""
        if fault.isdigit():
            self.send_error(int(fault))
        elif fault == "short":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"only this")
        elif fault == "page":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html><html>please log in</html>" * 30)
        else:
            super().do_GET()

    def log_message(self, *arguments: object) -> None:
        pass


class Server:
    """A folder behind http://127.0.0.1. requests: names that were asked for. faults: name -> what goes wrong first."""

    def __init__(self, url: str, requests: list[str], faults: dict[str, list[str]]) -> None:
        self.url = url
        self.requests = requests
        self.faults = faults


class _QuietServer(http.server.ThreadingHTTPServer):
    def handle_error(self, *arguments: object) -> None:
        pass  # a client that hangs up


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve a folder from a thread."""
    requests: list[str] = []
    faults: dict[str, list[str]] = {}
    handler = type("Handler", (_Handler,), {"requests": requests, "faults": faults})
    server = _QuietServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))  # type: ignore[arg-type]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Server(f"http://127.0.0.1:{server.server_address[1]}", requests, faults)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
