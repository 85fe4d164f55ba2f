"""One component of each kind for Decomposable Flow Matching, written outside of it."""
