"""Tests on real servers, one folder for each room of the package."""
