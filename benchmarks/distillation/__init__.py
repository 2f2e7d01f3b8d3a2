"""What distillation gains over training alone, method by method, and what it costs in time."""
