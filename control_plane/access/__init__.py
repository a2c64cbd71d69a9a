"""Who may call: signatures, credentials, policies and the audit log."""
