"""From traces to a dataset: candidate steps, named gates, one row a step and one a trajectory, exports and the card."""
