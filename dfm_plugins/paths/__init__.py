"""The probability paths that ship."""
