"""What a component must be: one file a kind. Read these first."""
