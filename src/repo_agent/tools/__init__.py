"""The tool schema, its one home: specs, contained paths, the four file tools, the verdict on a turn."""
