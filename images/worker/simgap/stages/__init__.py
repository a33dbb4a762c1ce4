"""What a worker does: one module a stage. Loaded only when a unit is done."""
