"""The part that decides: no IO, no clock, no randomness, no logging, no user code."""
