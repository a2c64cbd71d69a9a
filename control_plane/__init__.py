"""The server: the HTTP API of Amazon Lookout for Vision, its store, objects, jobs and hosting."""
