"""The amphora's network: its namespace; links, addresses, routes and rules; what is plugged, and who is told."""
