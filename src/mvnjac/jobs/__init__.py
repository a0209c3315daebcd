"""What is run over tables: estimation, scores, their sums and parts, as jobs of an engine.

It may use `inference`, `estimation`, `engines`, `tables` and what is below them. Interface: `data.Data`, `density.prepared`,
`commands`, `partitioned`, `provenance`."""
