"""`python -m dfm_core` is `dfm`."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # Like `dfm`, it imports nothing from the working directory, which Python puts first.
    if not sys.flags.safe_path and os.path.realpath(sys.path[0]) == os.path.realpath(os.getcwd()):
        del sys.path[0]
    from dfm_core.cli.app import run

    run()
