"""Tests with the real haproxy, keepalived, sockets and processes of the machine."""
