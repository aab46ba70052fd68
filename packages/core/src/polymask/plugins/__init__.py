"""What plugins declare, how they are found, and the registry of their parts."""
