"""`python -m dfm_core` is `dfm`."""

from __future__ import annotations

import sys

from dfm_core.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
