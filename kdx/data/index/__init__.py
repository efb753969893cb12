"""What lies in each shard, written down once in a file that is mapped and not read: opening a set costs milliseconds.

`opening.open_indexes` is the door: it opens what is there and current, and builds what is not.
"""
