"""A build and its measurements as JSON and as a page."""
