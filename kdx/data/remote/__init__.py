"""Shards that lie elsewhere, at a URL of any protocol that fsspec knows, and their bounded cache on this machine.

`tars.tars_at` is the door: it says of each shard what is there now, and how it is read.
"""
