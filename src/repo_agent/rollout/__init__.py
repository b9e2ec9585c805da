"""Rollouts: one task played by one model into one trace, many of them at once, and the teacher that needs no model."""
