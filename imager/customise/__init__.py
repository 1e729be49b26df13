"""What a machine needs after its image."""
