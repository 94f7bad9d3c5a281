"""Viewer: runs, the windows that their judges scored, and trajectories step by step, as pages and in a terminal."""
