"""Passes: each reads and writes a graph, and says what it did, or why not."""
