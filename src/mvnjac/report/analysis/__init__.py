"""The content of a report as plain numbers: estimates, diagnostics, and stability over time."""
