"""What clients and the service agree on, beside protos/edge-agent.proto."""

from linewatch.anomaly_model.limits import LIMITS

MESSAGE_BYTES = LIMITS.picture_side_max**2 * 3 + 1024 * 1024
"""The largest legal picture, and room for the rest of the message; gRPC's default of 4 MiB is less than 1182 x 1182."""
INSPECTION = "linewatch.Inspection"
"""The service that tells the agent's metrics."""
