"""The application: settings, wiring, commands."""

__version__ = "0.1.0"
