"""The promise to plugin authors: the stable modules are as stable_api.txt says, and documented."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import stable_api
from stable_api import RENEW, ROOT, STABLE, Entry, entries, imported_names, listing, stable_modules, tree_of
from test_architecture import STABLE as IMPORTABLE
from test_architecture import within

ENTRIES = [entry for module in stable_modules() for entry in entries(module)]
SHAPE = re.compile(r"\((B|S|C|C_s|steps\+1|[a-z]+_channels)\b|\*spatial|\bshapes?\b")
"""What a text about tensors must hold: a shape, or the word."""
PAGES = [
    *(ROOT / "docs").glob("write_a_plugin.md"),
    *(ROOT / "docs" / "kinds").glob("*.md"),
    *(ROOT / "examples" / "third_party_plugin").rglob("*.py"),
]
"""What plugin authors read and copy."""
FOR_PROGRAMS = {"Registry"}
"""Types of arguments that authors leave out: they are no part of the promise."""


def test_the_promise_is_kept() -> None:
    before, now = stable_api.PINNED.read_text(encoding="utf-8"), listing()
    difference = "\n".join(
        difflib.unified_diff(before.splitlines(), now.splitlines(), "promised", "now", n=2, lineterm="")
    )
    assert not difference, (
        f"what plugin authors rely on has changed:\n{difference}\nAn addition is fine. Any other change breaks "
        "plugins that are installed somewhere: if it must be, API_VERSION rises, too. "
        f"Either way, renew the list on purpose: {RENEW}"
    )


def test_a_change_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "stable_api.txt"
    stable_api.write(other)
    assert other.read_text(encoding="utf-8") == listing()
    other.write_text(listing().replace("interpolate(noise: Tensor, ", "interpolate("), encoding="utf-8")
    monkeypatch.setattr(stable_api, "PINNED", other)
    with pytest.raises(AssertionError) as caught:
        test_the_promise_is_kept()
    message = str(caught.value)
    assert "-    interpolate(data: Tensor, t: Tensor) -> Tensor" in message
    assert "+    interpolate(noise: Tensor, data: Tensor, t: Tensor) -> Tensor" in message
    assert RENEW in message


def test_the_list_has_what_authors_need() -> None:
    """A guard of the reader of the source: one thing of each sort."""
    lines = {(entry.where, entry.line) for entry in ENTRIES}
    assert {
        ("dfm_core.interfaces.decomposition", "class Decomposition(ABC)"),
        ("dfm_core.interfaces.decomposition:Decomposition", "@property num_stages(self) -> int"),
        ("dfm_core.interfaces.stage_schedule:ScheduleGrid", "visible: Tensor"),
        ("dfm_core.interfaces.dataset:Dataset", "channels: int = 3"),
        ("dfm_core.stages", "Stages = tuple[Tensor, ...]"),
        ("dfm_core.stages", "format_size(size: Sequence[int]) -> str"),
        ("dfm_core.plugins", "API_VERSION = 1"),
        ("dfm_core.plugins:DecompositionSpec", "linear: bool = False"),
        ("dfm_core.errors:UsageError", "exit_code = 2"),
    } <= lines
    assert STABLE == IMPORTABLE


def test_every_public_thing_is_documented() -> None:
    silent = [f"{entry.where} {entry.line}" for entry in ENTRIES if not entry.documentation]
    assert not silent, "\n".join(silent)
    assert all(ast.get_docstring(tree_of(module)) for module in stable_modules())


def test_what_takes_or_gives_tensors_tells_their_shapes() -> None:
    about = [entry for entry in ENTRIES if re.search(r"\b(Tensor|Stages)\b", entry.line)]
    silent = [f"{entry.where} {entry.line}" for entry in about if not SHAPE.search(entry.documentation)]
    assert len(about) > 20
    assert not silent, "\n".join(silent)


def types_of(entry: Entry) -> Iterator[str]:
    """Names in the annotations of a definition."""
    annotations = [getattr(node, name, None) for node in ast.walk(entry.node) for name in ("annotation", "returns")]
    for annotation in filter(None, annotations):
        yield from (node.id for node in ast.walk(annotation) if isinstance(node, ast.Name))


def test_the_types_of_the_promise_are_promised() -> None:
    promised = {entry.name for entry in ENTRIES} | FOR_PROGRAMS
    open_ends = {
        f"{entry.where} {entry.name}: {name}"
        for entry in ENTRIES
        if not isinstance(entry.node, ast.ClassDef)
        for name in types_of(entry)
        if name in {*imported_names(entry.source), *stable_api.definitions(tree_of(entry.source).body)} - promised
    }
    assert not open_ends, "\n".join(sorted(open_ends))


def mentioned(text: str) -> set[str]:
    """Modules of core that a text names."""
    return {name.rstrip(".") for name in re.findall(r"\bdfm_core\.[a-z_.]+", text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_authors_are_told_of_stable_modules_only(page: Path) -> None:
    wrong = [name for name in mentioned(page.read_text(encoding="utf-8")) if not within(name, "dfm_core", STABLE)]
    assert not wrong


def test_the_promise_names_nothing_that_is_not_promised() -> None:
    texts = [entry.documentation for entry in ENTRIES] + [
        ast.get_docstring(tree_of(name)) or "" for name in stable_modules()
    ]
    assert not [name for text in texts for name in mentioned(text) if not within(name, "dfm_core", STABLE)]
