"""The scheduler: which requests run, in which batch, and what becomes of their tokens."""
