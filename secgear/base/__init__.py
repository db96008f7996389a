"""Base layer: one SDK over every TEE."""
