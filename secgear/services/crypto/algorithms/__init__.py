"""What the token computes with: one room for each family that needs more than a library call."""
