"""Detectors that Ultralytics publishes, written anew from the tables of their layers."""
