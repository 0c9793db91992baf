"""Pictures that nobody waits for on the line: jobs, and reports of their end."""
