"""Facts about the amphora itself."""
