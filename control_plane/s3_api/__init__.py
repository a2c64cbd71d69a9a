"""The few calls of S3 that scripts make before and after those of the API, over the directory of buckets."""
