"""Ways to reach a device: one module each."""
