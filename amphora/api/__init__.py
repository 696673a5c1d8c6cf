"""The REST API: routes, bodies and answers; no file, process or socket is touched here."""
