"""Data sets by name: the field's sets in their published layouts, for evaluation.

`open_named` opens one, `known_sets` is the table of them (`sets.toml`). A layout is a module that lists the images it
finds under a root; `open.py` picks the layout and puts class names, templates and what is skipped together.
"""

from .image_list import ImageList
from .open import open_named
from .table import SetRecord, find_set, known_sets

__all__ = ["ImageList", "SetRecord", "find_set", "known_sets", "open_named"]
