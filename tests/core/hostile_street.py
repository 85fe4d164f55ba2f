"""Plugins with every fault that a plugin can have, and a good one among them."""

from __future__ import annotations

import sys
from typing import NamedTuple

from fake_plugins import PREAMBLE, FakeSite

from dfm_core.plugins.discovery import BUILTIN, DISTRIBUTION, PluginState

TRACE = """
from pathlib import Path
Path(__file__).with_suffix(".imported").touch()
"""
"""At the top of every plugin here: a file says that it was imported, in whatever process."""
GOOD = "@hookimpl\ndef dfm_decompositions(): return [DecompositionSpec('good', 'Good.', 'nowhere:Good')]\n"


class Hostile(NamedTuple):
    """A plugin with a fault. source: of its module. state, message: what its record says once somebody asks for it."""

    source: str
    state: PluginState
    message: str
    preamble: str = PREAMBLE


BROKEN, INCOMPATIBLE = PluginState.BROKEN, PluginState.INCOMPATIBLE
HOSTILE = {
    "import_error": Hostile("import no_such_module", BROKEN, "No module named 'no_such_module'"),
    "misspelt": Hostile("@hookimpl\ndef dfm_backbone(): return []", BROKEN, "Did you mean 'dfm_backbones'"),
    "signature": Hostile("@hookimpl\ndef dfm_backbones(config): return []", BROKEN, "config"),
    "raising": Hostile(GOOD + "@hookimpl\ndef dfm_datasets(): raise OSError('no disk')", BROKEN, "OSError: no disk"),
    "rubbish": Hostile("@hookimpl\ndef dfm_decompositions(): return {'laplacian': object()}", BROKEN, "got dict"),
    "twice": Hostile(GOOD.replace(")]", ")] * 2"), BROKEN, "lists 'good' twice"),
    "old_api": Hostile("DFM_PLUGIN_API = 0\n", INCOMPATIBLE, "API 0, this is 1; update the plugin", ""),
    "future_api": Hostile("DFM_PLUGIN_API = 2\nimport tomorrow", INCOMPATIBLE, "API 2, this is 1; update deco", ""),
    "sys_exit": Hostile("import sys\nsys.exit('no licence')", BROKEN, "SystemExit: no licence"),
    "printing": Hostile(f"import sys\nprint('hi')\nsys.stdout.write('ho')\n{GOOD}", PluginState.LOADED, ""),
}
"""Faults that show once the plugin is asked for."""
UNASKED = {"slow": "import time\ntime.sleep(3600)", "os_exit": "import os\nos._exit(3)"}
"""Faults that nobody survives who imports them in his own process."""
REFUSED = {"thief": (BUILTIN, DISTRIBUTION), "twin": ("twin", "dfm-twin 1.2"), "other": ("twin", "dfm-other 1.2")}
"""Distribution -> the namespace that it claims beside another one's claim, and that other one."""
EVERYBODY = [*HOSTILE, *UNASKED, *REFUSED]

PYRAMID = """
import torch.nn.functional as F
from dfm_core.plugins import Options
from dfm_core.residual_pyramid import ResidualPyramid

print("a component may print, too")

class Pyramid(ResidualPyramid):
    def down(self, x, size):
        return F.adaptive_avg_pool2d(x, size)

    def up(self, x, size):
        return F.interpolate(x, size, mode="nearest")
"""


class Street:
    """A site with a good plugin, `kind/pyramid`, and hostile ones beside it."""

    def __init__(self, site: FakeSite) -> None:
        self.site = site
        site.module("kind_pyramid", PYRAMID, preamble="")
        hook = (
            "@hookimpl\ndef dfm_decompositions(): return [DecompositionSpec('pyramid', 'P.', 'kind_pyramid:Pyramid')]"
        )
        site.plugin("kind", TRACE + hook)

    def install(self, case: str) -> None:
        """Install one hostile plugin as distribution dfm-<case> 1.2."""
        hostile = HOSTILE.get(case, Hostile(UNASKED.get(case, GOOD), BROKEN, ""))
        namespace = REFUSED.get(case, (case,))[0]
        self.site.module(f"{case}_plugin", TRACE + hostile.source, hostile.preamble)
        self.site.distribution(provider(case).split()[0], "1.2", f"{namespace} = {case}_plugin")

    def imported(self) -> set[str]:
        """Namespaces whose plugin was imported, in this process or in another."""
        here = {name.removesuffix("_plugin") for name in sys.modules if name.endswith("_plugin")}
        there = {path.stem.removesuffix("_plugin") for path in self.site.folder.glob("*.imported")}
        return (here | there) & {*EVERYBODY, "kind"}


def provider(case: str) -> str:
    """Distribution and version of a hostile plugin."""
    return f"dfm-{case.replace('_', '-')} 1.2"
