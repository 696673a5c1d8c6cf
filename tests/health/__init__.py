"""Tests for L{amphora.health}."""
