"""The random state that belongs to nobody: Python's, NumPy's and torch's. Components neither read nor change it."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch

from dfm_core.conformance.law import LawBroken

Result = TypeVar("Result")


def under_two_seeds(call: Callable[[], Result], what: str) -> tuple[Result, Result]:
    """Return what a call gives under two global seeds. Raises LawBroken if it changes a state; all stay as they were.

    what: who must draw nothing, for the message.
    """
    results = []
    with _kept():
        for seed in (1, 2):
            _seed(seed)
            before = _states()
            results.append(call())
            changed = [name for name, state in _states().items() if state != before[name]]
            if changed:
                raise LawBroken(
                    f"{what} changed the global random state of {' and '.join(changed)}; draw from a generator that "
                    "is given or made for it"
                )
    return results[0], results[1]


def _states() -> dict[str, Any]:
    # NumPy's state holds an array, which == compares element by element.
    return {
        "Python": random.getstate(),
        "NumPy": pickle.dumps(np.random.get_state()),  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
    }


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def _kept() -> Iterator[None]:
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
