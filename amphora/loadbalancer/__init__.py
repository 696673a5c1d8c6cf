"""What a controller uploads and starts: one `Instance` is one haproxy."""
