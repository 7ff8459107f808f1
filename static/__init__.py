"""The client for pages and programs: ``roomcast.js`` with its types, served at ``/static/``."""
