"""Processes around the pipeline: the gateway, the Ray actors and their pool."""
