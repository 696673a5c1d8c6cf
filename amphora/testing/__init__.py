"""Stand-ins with real behaviour for what the agent works with, for tests of it and of what uses it."""
