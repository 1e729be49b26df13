"""The HTTP interfaces: for agents, and for administrators."""
