"""The layouts that sets come in, each read as rows about images (`source.Source`); `opening.open_source` says which."""
