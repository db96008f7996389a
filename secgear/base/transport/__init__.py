"""Byte transports between the host and an enclave."""
