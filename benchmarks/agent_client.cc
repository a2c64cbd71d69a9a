// A camera program in C++, as small as one can be: one segment, one picture after the other, the time of each call.
// usage: agent_client ADDRESS MODEL WIDTH HEIGHT SEGMENT CALLS PACE_MS SECONDS
// (the segment holds picture and room for the mask; no call is begun after SECONDS)
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <thread>

#include "edge-agent.grpc.pb.h"

int main(int argc, char** argv) {
  if (argc != 9) return 2;
  const int width = std::stoi(argv[3]), height = std::stoi(argv[4]), calls = std::stoi(argv[6]);
  const std::chrono::duration<double, std::milli> pace(std::stod(argv[7]));
  const std::chrono::duration<double> limit(std::stod(argv[8]));
  const unsigned long size = static_cast<unsigned long>(width) * height * 3;
  auto stub = AWS::LookoutVision::EdgeAgent::NewStub(grpc::CreateChannel(argv[1], grpc::InsecureChannelCredentials()));
  AWS::LookoutVision::DetectAnomaliesRequest request;
  request.set_model_component(argv[2]);
  request.mutable_bitmap()->set_width(width);
  request.mutable_bitmap()->set_height(height);
  auto* picture = request.mutable_bitmap()->mutable_shared_memory_handle();
  picture->set_name(argv[5]);
  picture->set_size(size);
  auto* mask = request.mutable_anomaly_mask_params()->mutable_shared_memory_handle();
  mask->set_name(argv[5]);
  mask->set_size(size);
  mask->set_offset(size);
  const auto first = std::chrono::steady_clock::now();
  for (int i = 0; i < calls && std::chrono::steady_clock::now() - first < limit; ++i) {
    std::this_thread::sleep_for(pace);
    AWS::LookoutVision::DetectAnomaliesResponse response;
    grpc::ClientContext context;
    const auto begun = std::chrono::steady_clock::now();
    const grpc::Status status = stub->DetectAnomalies(&context, request, &response);
    const std::chrono::duration<double, std::milli> spent = std::chrono::steady_clock::now() - begun;
    if (!status.ok()) {
      std::fprintf(stderr, "%d %s\n", status.error_code(), status.error_message().c_str());
      return 1;
    }
    std::printf("%.4f\n", spent.count());
  }
  return 0;
}
