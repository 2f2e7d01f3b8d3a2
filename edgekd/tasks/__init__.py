"""What is learned: data sources, preprocessing, splits."""

from edgekd.tasks.dataset import Dataset, Split

__all__ = ["Dataset", "Split"]
