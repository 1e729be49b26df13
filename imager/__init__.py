"""Images, the cast and the agent. Never imports netboot."""
