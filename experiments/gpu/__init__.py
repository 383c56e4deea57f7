"""The long runs as one command for a machine with a GPU that is lent for minutes at a time and reaches no network."""
