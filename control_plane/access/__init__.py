"""What access rests on, apart from any request: signatures, credentials, policies, origins, and the audit log."""
