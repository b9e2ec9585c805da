"""repo-agent: make a cheap model emit valid tool calls in your agent's schema, and prove it."""

__version__ = "0.1.0"
