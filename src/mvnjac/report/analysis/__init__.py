"""What a report says: estimates, diagnostics, stability in time, as plain numbers."""
