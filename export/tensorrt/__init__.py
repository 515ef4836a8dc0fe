"""ONNX to a TensorRT or TensorRT-RTX engine: what can be built (``cards``), building, refitting.

Precision is in the ONNX graph, so networks are strongly typed and the builder chooses nothing but kernels.
TensorRT-RTX builds on a machine without a GPU; TensorRT needs the card that the engine is for.
"""
