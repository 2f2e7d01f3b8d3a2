"""What zeros in weights do for the speed of each runtime: what it documents, tried on x86 where it runs there."""

from collections.abc import Mapping

GAINS: Mapping[str, str] = {
    "ai-edge-litert": "no gain in int8, nor on x86; on ARM, float32 networks of 1x1 and depthwise convolutions gain "
    "from two thirds of zeros on (TensorFlow's XNNPACK README, Sparse Inference)",
    "tflite-runtime": "not measured: its XNNPACK has the sparse kernels of LiteRT's, for float32 on ARM "
    "(TensorFlow's XNNPACK README, Sparse Inference)",
    "onnxruntime": "no gain: no kernel takes sparse weights, and those of a file become dense when it is loaded "
    "(microsoft/onnxruntime, issue 5578)",
    "openvino": "no gain: zeros are multiplied like any number (CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE, off by default, "
    "packs weights of matrix products: OpenVINO's CPU properties, and its notebook of sparse models on AMX)",
    "coreml": "not measured: Apple says that the Neural Engine gains from weights that a file stores sparsely, and "
    "here they are stored densely (coremltools' guide, Pruning, Performance)",
}
