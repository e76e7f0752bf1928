"""The processes of a machine's trainers.

host (imports the libraries once; no threads, no gRPC)
+- agent, one per trainer (talks gRPC, never forks again)
   +- nursery, forked by the agent before it imports gRPC (no threads, no gRPC)
      +- one child per trial
"""
