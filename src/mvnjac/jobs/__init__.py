"""Computations over tables as jobs of an engine: estimation, scores, their sums, and folders of parts.

The package may use `inference`, `estimation`, `engines`, `tables` and everything below them. Interface for other packages:
`data.Data`, `density` (`Request`, `prepared`, `fitted`), `commands`, `partitioned`, `provenance`.
"""
