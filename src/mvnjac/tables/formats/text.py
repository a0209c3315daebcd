"""Text tables that are only read: .tsv, .txt, and those compressed with gzip, bzip2, zstd, or as an archive of one file."""

from __future__ import annotations

from mvnjac.tables.base import TableFormat
from mvnjac.tables.formats.csv import FORMAT as CSV
from mvnjac.tables.formats.csv import OPTIONS, SUFFIXES, open_text

FORMAT = TableFormat(tuple(suffix for suffix in SUFFIXES if suffix not in CSV.suffixes), open_text, options=OPTIONS)
