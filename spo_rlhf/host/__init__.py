"""This machine: processes, the terminal, Ray, the worker pool, files."""
