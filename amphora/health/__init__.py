"""The heartbeats: what controllers are told, unasked, of how the load balancers fare."""
