"""TensorRT: build a package's graph into a plan for one GPU, keep it, check it, run it.

``library`` is the only way to NVIDIA's bindings; nothing here imports them, or touches CUDA, before
it is asked to. Supported: TensorRT 11 and 10.16, and TensorRT-RTX, whose builder also works on a
machine with no GPU.
"""
