"""Evidence of NVIDIA GPUs and NVSwitches: measurements over SPDM, and NVIDIA's manifests."""
