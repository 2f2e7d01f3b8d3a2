"""Checks of an exported file against its source."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"compare": ["Parity", "parity"]})
