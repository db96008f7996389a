"""The cryptographic module: management in the REE, algorithms and keys in the TEE."""
