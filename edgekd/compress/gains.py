"""What zeros in weights do for the speed of each runtime: what it documents, tried on x86 where it runs there."""

from collections.abc import Mapping

GAINS: Mapping[str, str] = {
    "ai-edge-litert": "no gain: zeros are multiplied like any number (on ARM, XNNPACK has float kernels for 1x1 "
    "convolutions with two thirds of zeros and more, in files that store them sparsely: its README in TensorFlow)",
    "tflite-runtime": "no gain: zeros are multiplied like any number (as in LiteRT, whose forerunner it is)",
    "onnxruntime": "no gain: no kernel takes sparse weights, and those of a file become dense when it is loaded "
    "(microsoft/onnxruntime, issue 5578)",
    "openvino": "no gain: zeros are multiplied like any number (CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE, off by default, "
    "packs weights of matrix products: OpenVINO's CPU properties, and its notebook of sparse models on AMX)",
    "coreml": "not measured: Apple says that the Neural Engine gains from weights that a file stores sparsely, and "
    "here they are stored densely (coremltools' guide, Pruning, Performance)",
}
