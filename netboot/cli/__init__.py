"""The roomcast command."""
