"""Switchless calls: the same calls as over the stream, through shared memory."""
