"""Local stand-ins that speak the venues' real protocols."""
