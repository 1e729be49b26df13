"""Jinja2 templates: GRUB, unattend, Linux, pages. Data, no code."""
