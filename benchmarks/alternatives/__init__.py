"""What a user would pick instead: one module a tool, each writes an int8 file of its own."""
