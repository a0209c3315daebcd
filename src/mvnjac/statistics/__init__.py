"""Statistics that samples are summarised by, and how they are merged and stored.

Moments, sufficient statistics by pattern of missing entries, pairwise sums, their form in files, tail probabilities. It may use
`tensors` and `errors`. Interface: `sufficient`, `moments`, `pairwise`, `patterns`, `serialization`."""
