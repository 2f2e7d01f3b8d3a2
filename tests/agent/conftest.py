from tests.export.small import damaged, float_file, int8_file

__all__ = ["damaged", "float_file", "int8_file"]
