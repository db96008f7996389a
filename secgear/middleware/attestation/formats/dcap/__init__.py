"""Intel SGX and TDX: quotes of the Data Center Attestation Primitives (DCAP)."""
