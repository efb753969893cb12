"""From a list of URLs to shards, through img2dataset in an environment of its own."""

from .environment import DISTRIBUTORS
from .preparation import Prepared, Settings, prepare

__all__ = ["DISTRIBUTORS", "Prepared", "Settings", "prepare"]
