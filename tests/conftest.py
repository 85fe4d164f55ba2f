"""Settings of the whole test run: one thread (torch's OpenMP spins beside a busy neighbour), no colour, no chance."""

import os

from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ["NO_COLOR"] = "1"
os.environ["MPLBACKEND"] = "Agg"

# The same examples in every run.
settings.register_profile("reproducible", derandomize=True)
settings.load_profile("reproducible")
