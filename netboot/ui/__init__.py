"""Pages for administrators, rendered on the server."""
