"""Pure functions on arrays: no store, no request, no clock."""
