"""Exporters: one module a format, none of which imports another."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submod_attrs={"formats": ["export"]})
