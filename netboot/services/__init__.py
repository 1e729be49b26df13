"""Sockets, tasks and processes of the appliance."""
