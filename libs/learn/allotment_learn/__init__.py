"""Learning on tables: from a trial's task to scores and one exact ONNX graph.

Import from the modules: `task` (what goes in and comes out), `table`, `trial.run_trial`,
`families.offered.offered_families`, `dates.epoch_days`. This package itself imports nothing.
"""
