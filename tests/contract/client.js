// A camera program in Node with stock packages: client.js ADDRESS PROTO MODEL WIDTH HEIGHT FILE; prints JSON.
const fs = require("fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, proto, model, width, height, file] = process.argv.slice(2);
const definition = loader.loadSync(proto, { keepCase: true, longs: Number, enums: String, defaults: true });
const { EdgeAgent } = grpc.loadPackageDefinition(definition).AWS.LookoutVision;
const limits = { "grpc.max_receive_message_length": -1, "grpc.max_send_message_length": -1 };
const client = new EdgeAgent(address, grpc.credentials.createInsecure(), limits);
const bitmap = { width: Number(width), height: Number(height), byte_data: fs.readFileSync(file) };
const request = { model_component: model, bitmap };

function call(name, message, options = {}) {
  return new Promise((resolve) => {
    client[name](message, new grpc.Metadata(), options, (error, answer) => resolve({ code: error ? error.code : 0, details: error?.details, answer }));
  });
}

async function main() {
  const first = await call("DetectAnomalies", request);
  const many = await Promise.all(Array.from({ length: 8 }, () => call("DetectAnomalies", request)));
  const late = await call("DetectAnomalies", request, { deadline: Date.now() - 1 });
  const wrong = await call("DetectAnomalies", { model_component: "none", bitmap });
  const cancelled = await new Promise((resolve) => {
    const running = client.DetectAnomalies(request, (error) => resolve(error.code));
    running.cancel();
  });
  const result = first.answer.detect_anomaly_result;
  const sum = result.anomaly_mask ? result.anomaly_mask.byte_data.reduce((total, byte) => total + byte, 0) : 0;
  const models = await call("ListModels", {});
  console.log(JSON.stringify({
    is_anomalous: result.is_anomalous, confidence: result.confidence, anomalies: result.anomalies.map((a) => a.name), mask_sum: sum,
    many: many.map((m) => m.code), late: late.code, wrong: [wrong.code, wrong.details], cancelled, models: models.answer.models.map((m) => m.status),
  }));
  client.close();
}

main();
