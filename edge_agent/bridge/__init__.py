"""The way out: a process of its own that talks to Greengrass's core or to an MQTT broker, so that what happens there cannot end the agent."""
