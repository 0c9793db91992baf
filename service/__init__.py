"""The serving process: API, planner, embedder, engine, metrics, page."""
