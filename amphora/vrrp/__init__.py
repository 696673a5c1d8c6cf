"""The amphora as one of a pair: keepalived, its role, and the topology that the controller asked for."""
