"""Serving with Triton: the server's environment, the model repository, the supervisor and the client."""
