"""The agent: what it is told and may do, and the loop that plays it."""
