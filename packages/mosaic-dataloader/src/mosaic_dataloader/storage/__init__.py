"""Streams and their shards: indexes, downloads, the cache, memory maps, stored epoch orders."""
