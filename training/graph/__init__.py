"""ONNX graphs: how they are written, what they hold, what they cost."""
