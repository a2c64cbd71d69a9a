// A camera program made from protos/edge-agent.proto with stock tools: sends a raw RGB file, prints the answer.
// usage: client ADDRESS MODEL WIDTH HEIGHT FILE
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>

#include "edge-agent.grpc.pb.h"

int main(int argc, char** argv) {
  if (argc != 6) return 2;
  std::ifstream file(argv[5], std::ios::binary);
  const std::string pixels((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  auto stub = AWS::LookoutVision::EdgeAgent::NewStub(grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials()));
  AWS::LookoutVision::DetectAnomaliesRequest request;
  request.set_model_component(argv[2]);
  request.mutable_bitmap()->set_width(std::stoi(argv[3]));
  request.mutable_bitmap()->set_height(std::stoi(argv[4]));
  request.mutable_bitmap()->set_byte_data(pixels);
  AWS::LookoutVision::DetectAnomaliesResponse response;
  grpc::ClientContext context;
  const grpc::Status status = stub->DetectAnomalies(&context, request, &response);
  if (!status.ok()) {
    std::fprintf(stderr, "%d %s\n", status.error_code(), status.error_message().c_str());
    return 1;
  }
  const auto& result = response.detect_anomaly_result();
  unsigned long sum = 0;
  for (const unsigned char byte : result.anomaly_mask().byte_data()) sum += byte;
  std::printf("%d %.6f %.6f %zu %lu\n", result.is_anomalous(), result.confidence(), result.anomaly_score(),
              static_cast<size_t>(result.anomalies_size()), sum);
  return 0;
}
