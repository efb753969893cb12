"""Image–text sets: tar shards and their index, the training loader, and sets made from a grammar or a subset.

`shards.open_split` reads, `shards.write_shards` writes, `convert.convert` packs what `sources` reads,
`synthetic.write_synthetic` draws a set,
`subset.write_subset` takes a part of one, `loader.Loader` feeds a training run (the only part with torch nearby).
"""
