"""Looking at a machine without changing it: what the probes of all TEEs share."""
