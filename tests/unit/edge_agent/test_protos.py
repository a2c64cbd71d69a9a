"""The contract's numbers and types, as the service published them: clients that were compiled long ago rely on each."""

from google.protobuf.descriptor import FieldDescriptor

from linewatch.edge_agent.protos import edge_agent_pb2 as pb

PUBLISHED = {
    "DetectAnomaliesRequest": "1 string model_component, 2 Bitmap bitmap, 3 AnomalyMaskParams anomaly_mask_params",
    "DetectAnomaliesResponse": "1 DetectAnomalyResult detect_anomaly_result",
    "StartModelRequest": "1 string model_component", "StartModelResponse": "1 ModelStatus status",
    "StopModelRequest": "1 string model_component", "StopModelResponse": "1 ModelStatus status",
    "ListModelsRequest": "", "ListModelsResponse": "1 ModelMetadata models*",
    "DescribeModelRequest": "1 string model_component", "DescribeModelResponse": "1 ModelDescription model_description",
    "Bitmap": "1 int32 width, 2 int32 height, 3 bytes byte_data, 4 SharedMemoryHandle shared_memory_handle",
    "SharedMemoryHandle": "1 string name, 2 uint64 size, 3 uint64 offset",
    "DetectAnomalyResult": "1 bool is_anomalous, 2 float confidence, 3 Bitmap anomaly_mask, 4 Anomaly anomalies*",
    "Anomaly": "1 string name, 2 PixelAnomaly pixel_anomaly", "PixelAnomaly": "1 float total_percentage_area, 2 string hex_color",
    **dict.fromkeys(
        ("ModelMetadata", "ModelDescription"),
        "1 string model_component, 2 string lookout_vision_model_arn, 3 ModelStatus status, 4 string status_message",
    ),
    # The guide's number and that of the samples.
    "AnomalyMaskParams": "2 SharedMemoryHandle shared_memory_handle, 3 SharedMemoryHandle shared_memory_handle_of_samples",
}  # fmt: skip
OURS = ("anomaly_score", "anomaly_threshold")


def shown(field: FieldDescriptor) -> str:
    names = {number: name.removeprefix("TYPE_").lower() for name, number in vars(FieldDescriptor).items() if name.startswith("TYPE_")}
    other = field.message_type or field.enum_type
    return f"{field.number} {other.name if other else names[field.type]} {field.name}{'*' if field.is_repeated else ''}"


def test_numbers_and_types_are_those_of_the_service() -> None:
    found = {
        name: ", ".join(shown(f) for f in message.fields if f.name not in OURS)
        for name, message in pb.DESCRIPTOR.message_types_by_name.items()
    }
    assert found == PUBLISHED
    service = pb.DESCRIPTOR.services_by_name["EdgeAgent"]
    assert service.full_name == "AWS.LookoutVision.EdgeAgent"
    assert [(m.name, m.input_type.name, m.output_type.name) for m in service.methods] == [
        ("DetectAnomalies", "DetectAnomaliesRequest", "DetectAnomaliesResponse"),
        *((f"{name}Model{s}", f"{name}Model{s}Request", f"{name}Model{s}Response")
          for name, s in (("Start", ""), ("Stop", ""), ("List", "s"), ("Describe", ""))),
    ]  # fmt: skip
