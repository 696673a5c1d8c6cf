"""Tests for L{amphora.metrics}."""
