"""TPM 2.0 quotes, alone, on Azure's paravisor, and of the simulated virtual machine."""
