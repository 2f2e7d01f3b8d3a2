"""edgekd: from a large teacher to a small student that is proven on the device it will live on."""

__version__ = "0.1.0"
