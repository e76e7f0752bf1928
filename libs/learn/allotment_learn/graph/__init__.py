"""ONNX graphs that compute what the source libraries compute, in double precision."""
