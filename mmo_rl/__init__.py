"""mmo_rl: reinforcement learning of LLM agents from recorded play in a game that never ends."""

__version__ = "0.1.0"
