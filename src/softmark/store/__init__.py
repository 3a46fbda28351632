"""Addresses of what decides a result, and the store that makes each stage once."""
