"""What a release needs before it can start, and what it leaves behind: run as Jobs by the chart."""
