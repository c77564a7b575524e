"""The router against its peers: the same load and mock workers, each router alone on a core."""
