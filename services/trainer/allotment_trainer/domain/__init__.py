"""What a trainer knows: jobs, reports, how long it may go on without its server. No processes, no
wire.
"""
