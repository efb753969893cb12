"""A made image–text set: drawn scenes, captions from a grammar, a zero-shot task of 60 classes."""

from .drawn_set import draw_sample, write_synthetic

__all__ = ["draw_sample", "write_synthetic"]
