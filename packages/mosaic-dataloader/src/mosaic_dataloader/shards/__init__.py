"""Shard files: opened, fetched, shared with other processes, memory-mapped, evicted."""
