"""Runtimes that execute exported files: one module each."""
