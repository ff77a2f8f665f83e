"""Queries: opened and judged, answered from the last committed state. They wait for no command."""
