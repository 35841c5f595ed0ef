"""Key figures as mergeable sums: kernels that count events, and the sums they fill."""
