"""What serves the calls of the table: one function each, named like the call."""
