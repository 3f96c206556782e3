"""Tests of the service, against a really running one."""
