"""Text tables: streams of lines, the header, the separator, and cells that Arrow's reader does not convert.

The package may use `tables.reading` and `errors`; the formats in `tables.formats` use it.
"""
