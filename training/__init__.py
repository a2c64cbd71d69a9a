"""From labelled pictures to a bundle: read a dataset, fit, calibrate, evaluate, export one static ONNX graph."""
