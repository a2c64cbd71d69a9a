"""Times MLServer's gRPC endpoint: `client.py ADDRESS PICTURE.npy CALLS`, in MLServer's own environment; prints milliseconds, one a line."""

import sys
import time

import grpc
import numpy as np
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc import dataplane_pb2_grpc as rpc

address, path, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])
picture = np.load(path)
options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
stub = rpc.GRPCInferenceServiceStub(grpc.insecure_channel(address, options=options))
deadline = time.monotonic() + 60
while True:
    try:  # models are loaded after the port is bound
        if stub.ModelReady(pb.ModelReadyRequest(name="peer"), timeout=5).ready:
            break
    except grpc.RpcError as error:
        if time.monotonic() > deadline:
            sys.exit(f"the model is not ready after 60 s: {error.details()}")
    time.sleep(0.2)
tensor = pb.ModelInferRequest.InferInputTensor(name="picture", datatype="UINT8", shape=picture.shape)
for _ in range(calls):
    begun = time.perf_counter()
    request = pb.ModelInferRequest(model_name="peer", inputs=[tensor], raw_input_contents=[picture.tobytes()])
    stub.ModelInfer(request, timeout=60)
    print(f"{(time.perf_counter() - begun) * 1e3:.4f}", flush=True)
