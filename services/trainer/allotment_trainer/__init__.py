"""The trainer: works on the trials of one lease at a time, each trial in a process of its own."""
