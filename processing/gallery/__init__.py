"""A small gallery room, rendered: exact poses and exact geometry, for the demo and for tests."""
