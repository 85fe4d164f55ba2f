"""`dfm plugins new`: a package of one's own, with a working component to edit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dfm_core.cli.command import Json, command
from dfm_core.cli.output import print_json
from dfm_core.plugins.kinds import KINDS


@command
def new(
    namespace: Annotated[
        str, typer.Argument(help="Begins the names of its components: acme in acme/steerable.", metavar="NAMESPACE")
    ],
    kind: Annotated[str, typer.Option(help=f"Kind of its component: {', '.join(KINDS)}.", metavar="KIND")],
    name: Annotated[str, typer.Option(help="Name of its component: steerable in acme/steerable.", metavar="NAME")],
    output: Annotated[Path, typer.Option(help="Where to put the folder.", metavar="FOLDER")] = Path("."),
    json: Json = False,
) -> None:
    """Begin a package of your own.

    Writes the folder dfm-NAMESPACE: an installable package with a working component to edit, its test and a README.
    """
    from dfm_core.plugins.scaffold import Scaffold

    scaffold = Scaffold(namespace, kind.replace("-", "_"), name)
    folder = scaffold.write(output)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    commands = scaffold.next_commands(folder)
    if json:
        names = {key: getattr(scaffold, key) for key in ("distribution", "package", "component", "kind")}
        print_json({"folder": str(folder), **names, "files": files, "next": commands})
        return
    print(f"wrote {folder}: {', '.join(files)}")
    print(f"the component to edit: {folder / scaffold.package / scaffold.name}.py")
    print("next:")
    for line in commands:
        print(f"  {line}")
