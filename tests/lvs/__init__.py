"""Tests for L{amphora.lvs}."""
