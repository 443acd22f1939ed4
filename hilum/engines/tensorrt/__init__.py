"""TensorRT: build, store, load and run the plan of a package's graph for one kind of GPU.

Only :mod:`~hilum.engines.tensorrt.library` imports NVIDIA's bindings, on first use. Supported are
TensorRT 10.16 and 11, and TensorRT-RTX, whose builder also works on a machine with no GPU.
"""
