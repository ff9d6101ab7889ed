"""A server of samples over HTTP, on one batcher; it needs the extra ``[serve]``."""
