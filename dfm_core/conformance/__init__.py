"""The laws that a component must hold, as functions that return what they measured and raise `LawBroken`.

Importable by plugin authors; needs neither pytest nor hypothesis.
"""

from dfm_core.conformance.law import LawBroken, Measurement, law, laws_of

__all__ = ["LawBroken", "Measurement", "law", "laws_of"]
