"""Attackers that the tests use: a lying host, a lying enclave."""
