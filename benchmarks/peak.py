"""The matrix-product peak of this machine, for the share of it that a program reaches."""

from greedy_prune_jax.accelerators import matmul_peak

__all__ = ["matmul_peak"]
