"""Results that are published: what is told of a picture, and the spool on disk where it waits for the bridge."""
