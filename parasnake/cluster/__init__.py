"""Clusters: scripts, commands and answers of batch systems, and a server that feeds itself."""
