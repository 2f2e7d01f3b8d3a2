"""Files that edgekd did not make: one by LiteRT's own quantizer and converter, one written by hand."""

from pathlib import Path

import numpy as np

SIDE, CHANNELS, CLASSES = 16, 16, 10


def tflite(folder: Path) -> Path:
    """A small int8 convolutional network, by PyTorch and LiteRT alone."""
    import litert_torch
    import torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig
    from torch import nn
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, CHANNELS, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(CHANNELS, CLASSES),
    ).eval()
    examples = [(torch.randn(1, 3, SIDE, SIDE),) for _ in range(4)]
    quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    observed = prepare_pt2e(torch.export.export(model, examples[0]).module(), quantizer)
    for example in examples:
        observed(*example)
    converted = convert_pt2e(observed, fold_quantize=False)
    file = folder / "pixels.tflite"
    litert_torch.convert(converted, examples[0], quant_config=QuantConfig(pt2e_quantizer=quantizer)).export(str(file))
    return file


def onnx(folder: Path) -> Path:
    """The same kind of network in float, written node by node."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    weights = {
        "first": random.normal(size=(CHANNELS, 3, 3, 3)) / 5,
        "second": random.normal(size=(CHANNELS, CHANNELS, 3, 3)) / 12,
        "last": random.normal(size=(CHANNELS, CLASSES)) / 4,
    }
    nodes = [
        helper.make_node("Conv", ["pixels", "first"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["c", "second"], ["d"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "last"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "pixels",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, CLASSES])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    file = folder / "pixels.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(file))
    return file
