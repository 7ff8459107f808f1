"""The broker on Redis (or Valkey): one server, Sentinel, or Cluster. Nothing outside this package knows Redis."""
