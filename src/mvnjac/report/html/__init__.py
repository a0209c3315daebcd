"""How a report shows it: one HTML page with charts, tables and the numbers as JSON."""
