"""The report as one HTML page, with charts, tables, and the numbers as JSON."""
