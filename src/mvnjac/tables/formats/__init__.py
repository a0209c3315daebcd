"""Formats of tables, one file each, with `SUFFIXES`, `open_source` and `open_sink`; they are found by themselves."""
