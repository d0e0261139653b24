"""The corpus: its schema, the readers that make one, validation with reasons, and random access to a published one."""
