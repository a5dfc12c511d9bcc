"""Migrations that every service's database shares."""
