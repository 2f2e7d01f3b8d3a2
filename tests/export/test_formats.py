from pathlib import Path

from edgekd.export import export
from edgekd.target import load_target
from tests.export.small import FEATURES, int8_content, quantized


def test_a_target_says_the_format(tmp_path: Path) -> None:
    file = export(quantized(), load_target("tflite-arm"), tmp_path, FEATURES)
    assert file == tmp_path / "model.tflite"
    assert file.read_bytes() == int8_content()
