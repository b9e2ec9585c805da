"""Other agents' conversations as our traces: the recording proxy, and the importers."""
