"""Traces: typed events, the append-only store, and the reader of the older shape."""
