"""Sample statistics: moments, sufficient statistics by pattern of missing entries, merging, storage, tail probabilities.

The package may use `kernels`, `tensors` and `errors`. Interface: `sufficient`, `moments`, `patterns`, `pairwise`,
`serialization`, `fingerprint` and `tail_probabilities`."""
