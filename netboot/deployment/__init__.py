"""From an image and a list of machines to tasks and sessions."""
