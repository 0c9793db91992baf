"""What the request headers that several routes take are for, as OpenAPI tells it."""

CACHE_CONTROL = "`no-store`, `no-cache`, `max-age`, `min-fresh`, `only-if-cached`; others are ignored."
IDEMPOTENCY_KEY = "A name of the client's for this request, 1 to 255 characters: sent again, it is answered once."
