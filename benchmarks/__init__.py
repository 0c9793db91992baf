"""One file per question; each prints one JSON object: `python -m benchmarks NAME --json`."""
