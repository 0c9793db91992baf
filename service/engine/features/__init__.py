"""Feature caching inside the engine: rows of one joint batch decide one by one."""
