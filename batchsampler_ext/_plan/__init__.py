"""The parts of a plan: its file, and what composing takes."""
