"""Clients that we did not write: older dialects of the contract, and C++ with stock tools."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import descriptor_pb2
from grpc_tools import protoc

from linewatch.anomaly_model.picture import read_picture
from linewatch.edge_agent.client import AgentClient
from linewatch.edge_agent.protos import edge_agent_pb2
from tests.conftest import need_tool

PROTO = Path(__file__).parents[2] / "protos" / "edge-agent.proto"


def as_first_generation(text: str) -> str:
    """Before segmentation: no masks, no list of anomalies, no scores."""
    text = re.sub(r"message (AnomalyMaskParams|PixelAnomaly|Anomaly) \{.*?\n\}", "", text, flags=re.DOTALL)
    text = re.sub(r"  AnomalyMaskParams anomaly_mask_params = 3;\n", "", text)
    return re.sub(
        r"  (Bitmap anomaly_mask|repeated Anomaly anomalies|float anomaly_score|float anomaly_threshold) = \d;\n", "", text
    )


def as_guide(text: str) -> str:
    """Mask handle in field 2, no scores."""
    text = re.sub(r"  SharedMemoryHandle shared_memory_handle_of_samples = 3;\n", "", text)
    return re.sub(r"  float (anomaly_score|anomaly_threshold) = \d;\n", "", text)


def as_samples(text: str) -> str:
    """Mask handle in field 3."""
    text = as_guide(text)
    return re.sub(r"(AnomalyMaskParams \{\n  SharedMemoryHandle shared_memory_handle) = 2", r"\1 = 3", text)


CLIENT = """
import sys, json, grpc
import edge_agent_pb2 as pb, edge_agent_pb2_grpc as rpc
address, file, width, height, segment = sys.argv[1:]
data = open(file, "rb").read()
bitmap = pb.Bitmap(width=int(width), height=int(height), byte_data=data)
request = pb.DetectAnomaliesRequest(model_component="parts", bitmap=bitmap)
if hasattr(pb, "AnomalyMaskParams"):
    request.anomaly_mask_params.shared_memory_handle.CopyFrom(pb.SharedMemoryHandle(name=segment, size=len(data)))
with grpc.insecure_channel(address) as channel:
    result = rpc.EdgeAgentStub(channel).DetectAnomalies(request).detect_anomaly_result
mask = result.anomaly_mask.shared_memory_handle.name if hasattr(pb, "AnomalyMaskParams") else None
print(json.dumps([result.is_anomalous, round(result.confidence, 6), mask]))
"""


@pytest.mark.parametrize("dialect", [as_first_generation, as_guide, as_samples])
def test_dialects(client: AgentClient, agent_address: str, parts: Path, tmp_path: Path, dialect: object) -> None:
    picture = read_picture(min((parts / "test" / "anomaly").iterdir()))
    assert callable(dialect)
    (tmp_path / "edge-agent.proto").write_text(dialect(PROTO.read_text()))
    assert protoc.main(["", f"-I{tmp_path}", f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}",
                        str(tmp_path / "edge-agent.proto")]) == 0  # fmt: skip
    (tmp_path / "picture.rgb").write_bytes(picture.tobytes())
    expected, _ = client.detect(picture, "parts")
    frame = client._frame
    assert frame is not None
    height, width = picture.shape[:2]
    arguments = [agent_address, str(tmp_path / "picture.rgb"), str(width), str(height), frame.name]
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    anomalous, confidence, mask = json.loads(done.stdout)
    assert (anomalous, confidence) == (expected.is_anomalous, pytest.approx(expected.confidence, abs=1e-6))
    assert mask == (None if dialect is as_first_generation else frame.name)


def test_committed_stubs_are_those_of_the_contract(tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert protoc.main(["", f"-I{PROTO.parent}", f"--descriptor_set_out={out}", str(PROTO)]) == 0
    [fresh] = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    committed = descriptor_pb2.FileDescriptorProto()
    edge_agent_pb2.DESCRIPTOR.CopyToProto(committed)
    for message in [*fresh.message_type, *committed.message_type]:
        for field in message.field:
            field.ClearField("json_name")
    assert committed == fresh


def test_cpp_client_gets_the_same_answer(client: AgentClient, agent_address: str, parts: Path, tmp_path: Path) -> None:
    compiler, stub_maker, plugin = need_tool("g++"), need_tool("protoc"), need_tool("grpc_cpp_plugin")
    packages = [need_tool("pkg-config"), "--cflags", "--libs", "grpc++", "protobuf"]
    flags = subprocess.run(packages, capture_output=True, text=True, check=True).stdout.split()
    subprocess.run([stub_maker, f"-I{PROTO.parent}", f"--cpp_out={tmp_path}", f"--grpc_out={tmp_path}",
                    f"--plugin=protoc-gen-grpc={plugin}", str(PROTO)], check=True)  # fmt: skip
    source = Path(__file__).with_name("client.cc")
    generated = [str(tmp_path / "edge-agent.pb.cc"), str(tmp_path / "edge-agent.grpc.pb.cc")]
    binary = tmp_path / "client"
    subprocess.run([compiler, "-O0", f"-I{tmp_path}", str(source), *generated, *flags, "-o", str(binary)], check=True)
    for path in [*sorted((parts / "test" / "anomaly").iterdir())[:2], *sorted((parts / "test" / "normal").iterdir())[:1]]:
        picture = read_picture(path)
        height, width = picture.shape[:2]
        (tmp_path / "picture.rgb").write_bytes(picture.tobytes())
        line = [str(binary), agent_address, "parts", str(width), str(height), str(tmp_path / "picture.rgb")]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
        anomalous, confidence, score, count, mask_sum = done.stdout.split()
        result, mask = client.detect(picture, "parts", "bytes")
        assert mask is not None
        assert bool(int(anomalous)) == result.is_anomalous
        assert float(confidence) == pytest.approx(result.confidence, abs=2e-6)
        assert float(score) == pytest.approx(result.anomaly_score, abs=2e-5)
        assert int(count) == len(result.anomalies)
        assert int(mask_sum) == int(mask.astype(np.int64).sum())
    bad = subprocess.run(
        [str(binary), agent_address, "parts", "63", "63", str(tmp_path / "picture.rgb")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert bad.returncode == 1
    assert bad.stderr.startswith("3 the picture is 63x63")
