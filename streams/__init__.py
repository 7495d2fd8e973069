"""What flows and where it comes from: events, instruments, the clock, recordings, feeds."""
